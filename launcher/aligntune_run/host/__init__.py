"""What is here: GPUs, memory, caches, a container engine. Probed once, as plain data."""
