"""Proximal policy optimization, which neither stack has any more."""
