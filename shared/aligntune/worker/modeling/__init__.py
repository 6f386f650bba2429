"""What is asked of a model: completions, log-probabilities, scores."""
