"""The request: its keys, the words they are made from, and what of it the trainer is told."""
