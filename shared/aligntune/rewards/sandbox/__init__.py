"""Running code that a model wrote, confined."""
