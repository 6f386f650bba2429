"""Choosing the backend, engine and GPUs. Pure: no clock, network or environment."""
