"""What a model's files say, here or on a hub, without torch."""
