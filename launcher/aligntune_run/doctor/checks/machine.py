"""Checks of the machine itself: platform, memory, folders, environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aligntune
import aligntune_run
from aligntune.errors import EngineError, HardwareError, OutOfMemoryError, OutputError, SpecError
from aligntune_run.doctor.checks.base import Checks, fail, gigabytes, good, warn
from aligntune_run.doctor.probe import Findings
from aligntune_run.plan import Verdict

MEMORY = 4 * 10**9
"""Less than this is not enough for more than a tiny model: imports alone take 1 GB."""

SHM = 10**9
CACHE = 10 * 10**9
"""A model of a few billion parameters, or a venv, fills as much."""


def platform(found: Findings) -> Iterator[Verdict]:
    here = f"{found.host.system} {found.host.machine}"
    if found.host.system != "Linux" or found.host.machine not in ("x86_64", "AMD64"):
        yield fail(f"{here} is not supported", "Run on x86-64 Linux")
    else:
        yield good(here)


def python(found: Findings) -> Iterator[Verdict]:
    venv = "a venv can be made for --engine process"
    yield good(f"Python {found.python}; {found.no_venv.rstrip('.') or venv}")


def memory(found: Findings) -> Iterator[Verdict]:
    told = (
        f"{gigabytes(found.host.memory)}, {gigabytes(found.available)} of it available, swap "
        f"{gigabytes(found.swap)}, {found.host.cpus} CPUs"
    )
    if found.available < MEMORY:
        yield warn(told, "End what uses it: `ps aux --sort=-rss | head` shows what does")
    else:
        yield good(told)


def shm(found: Findings) -> Iterator[Verdict]:
    if found.host.engine.reachable:
        yield good("containers are given a /dev/shm of half their memory")
    elif found.shm is None or found.shm < SHM:
        size = "none" if found.shm is None else gigabytes(found.shm)
        yield warn(f"/dev/shm: {size}", "`sudo mount -o remount,size=8G /dev/shm`")
    else:
        yield good(f"/dev/shm of {gigabytes(found.shm)}")


def caches(found: Findings) -> Iterator[Verdict]:
    for folder in found.folders:
        told = f"{folder.name} {folder.path}"
        if not folder.writable:
            yield fail(
                f"{told} cannot be written to",
                f"`sudo chown -R $USER {folder.path}`, or name another with "
                + ("ALIGNTUNE_CACHE_DIR" if folder.name == "our cache" else "HF_HOME"),
            )
        elif folder.free is not None and folder.free < CACHE:
            yield warn(
                f"{told} has {gigabytes(folder.free)} free",
                "Free some: `hf cache prune`, or name another with HF_HOME",
            )
        else:
            free = "?" if folder.free is None else gigabytes(folder.free)
            yield good(f"{told}, {free} free")


def environment(found: Findings) -> Iterator[Verdict]:
    given = found.environment
    said = []
    if any("cuda" in part.lower() for part in given.get("LD_LIBRARY_PATH", "").split(":")):
        said.append(
            warn(
                "LD_LIBRARY_PATH leads to a CUDA of the machine's, which may be loaded in place of "
                "torch's own where runs are processes",
                "`unset LD_LIBRARY_PATH`, or use --engine docker",
            )
        )
    if given.get("LD_PRELOAD"):
        said.append(
            warn("LD_PRELOAD changes every program where runs are processes", "`unset LD_PRELOAD`")
        )
    ours = {str(Path(module.__file__ or "").parents[1]) for module in (aligntune, aligntune_run)}
    strange = [part for part in given.get("PYTHONPATH", "").split(":") if part]
    if any(str(Path(part).absolute()) not in ours for part in strange):
        said.append(
            warn(
                "PYTHONPATH may hide packages of this command's by others of the same name",
                "`unset PYTHONPATH`",
            )
        )
    if given.get("BNB_CUDA_VERSION"):
        said.append(
            warn(
                "BNB_CUDA_VERSION has bitsandbytes take another CUDA than torch's, where runs are "
                "processes",
                "`unset BNB_CUDA_VERSION`",
            )
        )
    if given.get("HF_HUB_ENABLE_HF_TRANSFER"):
        said.append(
            warn(
                "HF_HUB_ENABLE_HF_TRANSFER does nothing any more",
                "`unset HF_HUB_ENABLE_HF_TRANSFER`; HF_XET_HIGH_PERFORMANCE=1 took its place",
            )
        )
    yield from said or [good("no variable that is known to break things")]


def settings(found: Findings) -> Iterator[Verdict]:
    names = sorted(name for name in found.environment if name.startswith("ALIGNTUNE_"))
    if names:
        yield good(f"set for every run: {', '.join(names)}")


CHECKS: Checks = {
    "platform": (platform, HardwareError),
    "python": (python, EngineError),
    "memory": (memory, OutOfMemoryError),
    "shm": (shm, OutOfMemoryError),
    "caches": (caches, OutputError),
    "environment": (environment, SpecError),
    "settings": (settings, SpecError),
}
