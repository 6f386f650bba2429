"""Another distribution may own the import name ``aligntune``: it is detected and named.

Nothing of ``aligntune`` is imported here: where the package is another's, to import it would run a
stranger's code, and to import from it would fail before anything could be said.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

NAME = "aligntune"
DISTRIBUTION = "aligntune-run"
MARK = f'DISTRIBUTION = "{DISTRIBUTION}"'
"""A line of our own ``aligntune/__init__.py``."""

METADATA = (".dist-info", ".egg-info")


def name_conflict() -> str | None:
    """What is wrong with the package ``aligntune`` here and what to do, or None if it is ours."""
    ours, place = _package()
    if ours and not _is_beside():
        return None
    owner = _installed(NAME)
    owner = owner or ", ".join(_others())
    if not owner and place is None:
        return (
            f"{DISTRIBUTION}'s package {NAME!r} is not whole, as after another distribution that "
            f"owned the name was removed. Install {DISTRIBUTION} again: "
            f"pip install --force-reinstall {DISTRIBUTION}"
        )
    name = owner.partition(" ")[0]
    removal = f"pip uninstall {name}, then install" if owner else "Move it away, or install"
    return (
        f"{f'the distribution {owner}' if owner else place} owns the import name {NAME!r}, which "
        f"{DISTRIBUTION} needs. {removal} {DISTRIBUTION} "
        f"{'again, or ' if owner else ''}in a virtual environment of its own"
    )


def _package() -> tuple[bool, str | None]:
    """Whether the package that would be imported is ours, and where it is, if it is whole."""
    found = importlib.util.find_spec(NAME)
    if found is None or found.origin is None:
        return False, None
    try:
        return MARK in Path(found.origin).read_text(encoding="utf-8"), found.origin
    except (OSError, UnicodeDecodeError):
        return False, found.origin


def _is_beside() -> bool:
    """Whether a distribution called ``aligntune`` is installed, by its folder's name alone.

    Every start of the command asks, and importing ``importlib.metadata`` would take longer than
    all else it does.
    """
    for place in sys.path:
        try:
            names = os.listdir(place or ".")
        except OSError:
            continue  # an archive, or nothing
        if any(name.startswith(f"{NAME}-") and name.endswith(METADATA) for name in names):
            return True
    return False


def _installed(name: str) -> str | None:
    from importlib import metadata

    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return None


def _others() -> list[str]:
    """Distributions of any name that have installed files of the package."""
    from importlib import metadata

    owners = dict.fromkeys(metadata.packages_distributions().get(NAME, ()))
    return [_installed(name) or name for name in owners if name != DISTRIBUTION]
