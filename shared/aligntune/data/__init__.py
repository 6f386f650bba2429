"""Rows: where they come from, which form they have, what they become."""
