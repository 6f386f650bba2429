"""Runs as processes in a venv that is made from the same lock."""
