"""How an image or venv that is missing may be had."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Obtain:
    """``find_links``: folders or pages with wheels; ``ask``: ask before gigabytes are fetched."""

    find_links: tuple[str, ...] = ()
    ask: bool = False
