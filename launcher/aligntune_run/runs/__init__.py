"""Carrying out a plan: start, follow, stop, record."""
