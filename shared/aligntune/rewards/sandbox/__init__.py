"""Run a model's code in confinement."""
