"""How a container sees the user's files: read-only, at ``/in`` + their own path, links included."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune import contract
from aligntune.errors import EngineError

BLOBS = "blobs"
"""The folder of a Hugging Face cache with the files to which the links in its snapshots point."""

SCAN_DEPTH = 4
SCAN_ENTRIES = 20_000
"""How far an input folder is searched for links. Models are flat; datasets have a few levels."""

SYSTEM_PATHS = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run"),
    *("/sbin", "/sys", "/usr", "/var/run", "/opt/aligntune"),
    *(contract.CACHE_DIR, contract.RUN_DIR, contract.INPUT_ROOT),
)
"""Paths that a container has itself; an absolute link to one of them cannot be followed."""


@dataclass(frozen=True)
class Bind:
    """A file or folder of the host, and where a container sees it."""

    source: str
    target: str
    read_only: bool = True

    def to_dict(self) -> dict[str, Any]:
        kind = {"type": "bind", "source": self.source, "target": self.target}
        return {**kind, "read_only": self.read_only}


def input_mounts(paths: Iterable[str]) -> tuple[Bind, ...]:
    """Read-only mounts with which each path P is whole at ``/in`` + P, links in it included.

    A link that leads out of its folder, as all do in a snapshot of a Hugging Face cache, is
    followed: what it leads to is mounted where the link, unchanged, will look for it. Of another
    folder only the file is mounted, for what lies beside it is nobody's business.

    Raises:
        EngineError: a link points to a path that the container has itself.
    """
    mounts = {contract.INPUT_ROOT + path: Path(path).resolve() for path in paths}
    for target in tuple(mounts):
        _follow_links(mounts, target)
    kept: list[Bind] = []
    for target, source in sorted(mounts.items()):
        shown = (bind for bind in kept if target.startswith(bind.target + "/"))
        if not any(source == Path(bind.source + target[len(bind.target) :]) for bind in shown):
            kept.append(Bind(str(source), target))
    return tuple(kept)


def _follow_links(mounts: dict[str, Path], target: str) -> None:
    folder = mounts[target]
    for link in _links(folder):
        _follow(mounts, link, posixpath.join(target, link.relative_to(folder).as_posix()))


def _follow(mounts: dict[str, Path], link: Path, seen_as: str) -> None:
    """Mount a link's target, unless the container sees it anyway or it does not exist.

    Args:
        mounts: target -> source; both are free of links on the way.
        link: the link on the host.
        seen_as: the link in the container.
    """
    text = os.readlink(link)
    found = link.parent / text
    target = posixpath.normpath(posixpath.join(posixpath.dirname(seen_as), text))
    if not found.exists() or link.is_relative_to(found.resolve()):
        return
    if any(_sees(known, source, target) for known, source in mounts.items()):
        return
    relative = not text.startswith("/") and target.startswith(contract.INPUT_ROOT + "/")
    if not relative and _is_system(target):
        raise EngineError(
            f"{link} is a link to {text}, and a container has its own {target}",
            "Put a copy there instead of the link",
        )
    if found.parent.name != BLOBS:
        mounts[target] = found.resolve()
        _follow_links(mounts, target)
        return
    mounts[posixpath.dirname(target)] = folder = found.parent.resolve()
    if (folder / found.name).is_symlink():
        _follow(mounts, folder / found.name, target)


def _sees(mounted: str, source: Path, target: str) -> bool:
    """Whether a mount of ``source`` has something at ``target``; links are followed elsewhere."""
    if target == mounted:
        return True
    return target.startswith(f"{mounted}/") and os.path.lexists(f"{source}{target[len(mounted) :]}")


def _is_system(target: str) -> bool:
    return target == "/" or any(f"{target}/".startswith(f"{path}/") for path in SYSTEM_PATHS)


def _links(folder: Path) -> Iterator[Path]:
    """The links in a folder, in order, within :data:`SCAN_DEPTH` and :data:`SCAN_ENTRIES`."""
    left = SCAN_ENTRIES
    level = [folder] if folder.is_dir() else []
    for _ in range(SCAN_DEPTH):
        below: list[Path] = []
        for place in level:
            try:
                with os.scandir(place) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                continue  # the worker has the caller's rights too and reports what it cannot read
            for entry in found[:left]:
                if entry.is_symlink():
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
            left -= len(found[:left])
        level = below
