"""Detects and names another distribution that owns the import name ``aligntune``.

This module imports nothing from ``aligntune``. If the package belongs to another distribution,
importing it would run that distribution's code, or fail before a message can be shown.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

NAME = "aligntune"
DISTRIBUTION = "aligntune-run"
MARK = f'DISTRIBUTION = "{DISTRIBUTION}"'
"""A line in our ``aligntune/__init__.py``."""

METADATA = (".dist-info", ".egg-info")


def name_conflict() -> str | None:
    """What is wrong with the package ``aligntune`` here, and what to do; None if it is ours."""
    ours, place = _package()
    if ours and not _has_rival():
        return None
    owner = _installed(NAME)
    owner = owner or ", ".join(_other_owners())
    if not owner and place is None:
        return (
            f"{DISTRIBUTION}'s package {NAME!r} is incomplete, probably because another "
            f"distribution with this name was removed. Install {DISTRIBUTION} again: "
            f"pip install --force-reinstall {DISTRIBUTION}"
        )
    name = owner.partition(" ")[0]
    removal = f"pip uninstall {name}, then install" if owner else "Move it, or install"
    return (
        f"{f'the distribution {owner}' if owner else place} owns the import name {NAME!r}, which "
        f"{DISTRIBUTION} needs. {removal} {DISTRIBUTION} "
        f"{'again, or ' if owner else ''}in a separate virtual environment"
    )


def _package() -> tuple[bool, str | None]:
    """Whether the package that would be imported is ours, and its path, if it is complete."""
    found = importlib.util.find_spec(NAME)
    if found is None or found.origin is None:
        return False, None
    try:
        return MARK in Path(found.origin).read_text(encoding="utf-8"), found.origin
    except (OSError, UnicodeDecodeError):
        return False, found.origin


def _has_rival() -> bool:
    """Whether a distribution called ``aligntune`` is installed, by the name of its metadata folder.

    This runs at every start, and importing ``importlib.metadata`` would take longer than the rest.
    """
    for place in sys.path:
        try:
            names = os.listdir(place or ".")
        except OSError:
            continue  # an archive, or it does not exist
        if any(name.startswith(f"{NAME}-") and name.endswith(METADATA) for name in names):
            return True
    return False


def _installed(name: str) -> str | None:
    from importlib import metadata

    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return None


def _other_owners() -> list[str]:
    """Other distributions that installed files of this package."""
    from importlib import metadata

    owners = dict.fromkeys(metadata.packages_distributions().get(NAME, ()))
    return [_installed(name) or name for name in owners if name != DISTRIBUTION]
