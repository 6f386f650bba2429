"""Computations with a model: completions, log-probabilities, scores."""
