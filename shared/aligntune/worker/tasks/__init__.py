"""What a worker does with a finished run."""
