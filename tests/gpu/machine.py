"""The machine before the steps: is there a GPU to test on, room to work, and which stacks."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.gpu.stacks import ROOT, Stack

from aligntune_run.host.gpus import probe_gpus

GIB = 1 << 30
ROOM = {True: 2 * GIB, False: 24 * GIB}
"""Bytes of disk for models and runs, when rehearsing and in earnest."""

FREE = 0.9
"""Share of a GPU's memory that has to be free: less, and figures would not mean much."""


class NotReadyError(Exception):
    """Why nothing can be run here, in one line with the remedy."""


def require_gpu() -> None:
    """One GPU that the stacks support, and that nobody else uses."""
    seen = probe_gpus()
    if not seen.found:
        raise NotReadyError(f"there is no NVIDIA GPU here: {seen.note}. --rehearse needs none")
    facts = json.loads((ROOT / "images" / "trl" / "facts.json").read_text(encoding="utf-8"))
    needed = str(facts["flavours"]["cuda"]["min_driver"])
    if seen.driver and _numbers(seen.driver) < _numbers(needed):
        raise NotReadyError(f"driver {seen.driver} is too old: CUDA 13 needs {needed} or newer")
    gpu = seen.found[0]
    if gpu.leased or gpu.free < FREE * gpu.memory:
        users = ", ".join(gpu.users) or "a process that the driver does not name"
        raise NotReadyError(
            f"{gpu.name} has {gpu.free / GIB:.1f} of {gpu.memory / GIB:.1f} GiB free. It is used "
            f"by {users}; end that first"
        )


def require_room(folder: Path, rehearsing: bool) -> None:
    """Disk for the results, and for models and runs in the temporary folder."""
    import tempfile

    for place in (folder, Path(tempfile.gettempdir())):
        free, needed = shutil.disk_usage(place).free, ROOM[rehearsing]
        if free < needed:
            raise NotReadyError(
                f"{place} has {free / GIB:.1f} GiB free and {needed / GIB:.0f} are needed. "
                "Free some, or name another place with --output and TMPDIR"
            )


def pick_stacks(packages: Path | None, work: Path, rehearsing: bool) -> dict[str, Stack]:
    """Both backends: this Python with the folders that run.sh made, or the images."""
    if packages:
        return {name: _here(name, packages, work, rehearsing) for name in ("trl", "unsloth")}
    return {name: _image(name, work, rehearsing) for name in ("trl", "unsloth")}


def _here(backend: str, packages: Path, work: Path, rehearsing: bool) -> Stack:
    import sys

    folder = (packages / backend).absolute()
    if not (folder / "trl").is_dir():
        raise NotReadyError(
            f"{folder} has no trl: make it with scripts/gpu_kit.sh and tests/gpu/run.sh"
        )
    return Stack(backend, not rehearsing, work, sys.executable, (str(folder),))


def _image(backend: str, work: Path, rehearsing: bool) -> Stack:
    from aligntune.errors import AligntuneError
    from aligntune_run import images
    from aligntune_run.host.docker_client import connect

    client, reason = connect()
    if client is None:
        raise NotReadyError(
            f"there is neither an engine ({reason}) nor --packages. See tests/gpu/README.md"
        )
    flavour = "cpu" if rehearsing and backend == "trl" else "cuda"
    try:
        image = images.obtain(client, images.recipe(backend, flavour), say=lambda _: None)
    except AligntuneError as error:
        raise NotReadyError(f"the image {backend} {flavour}: {error}") from error
    return Stack(backend, not rehearsing, work, image=image)


def about(rehearsing: bool) -> Mapping[str, Any]:
    """Where and of what the results are."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rehearsal": rehearsing,
        "commit": _commit(),
        "machine": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": [] if rehearsing else [gpu.name for gpu in probe_gpus().found],
    }


def _commit() -> str | None:
    """The commit of this clone; None for a copy without git."""
    if shutil.which("git") is None:
        return None
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
