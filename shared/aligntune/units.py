"""Sizes as text, in the one unit of all messages."""

from __future__ import annotations


def gib(size: float) -> str:
    """Bytes in GiB, as ``1.5 GiB``."""
    return f"{size / 2**30:.1f} GiB"
