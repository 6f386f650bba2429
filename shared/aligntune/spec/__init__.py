"""The request: its keys, their sources, and the trainer arguments that it determines."""
