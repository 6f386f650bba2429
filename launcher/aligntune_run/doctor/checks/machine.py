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
"""With less than this, only a tiny model fits: imports alone take 1 GB."""

SHM = 10**9
CACHE = 10 * 10**9
"""About the size of a model of a few billion parameters, or of a venv."""


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
    evidence = (
        f"{gigabytes(found.host.memory)}, {gigabytes(found.available)} of it available, swap "
        f"{gigabytes(found.swap)}, {found.host.cpus} CPUs"
    )
    if found.available < MEMORY:
        yield warn(evidence, "Stop what uses it; `ps aux --sort=-rss | head` lists it")
    else:
        yield good(evidence)


def shm(found: Findings) -> Iterator[Verdict]:
    if found.host.engine.reachable:
        yield good("containers get a /dev/shm of half their memory")
    elif found.shm is None or found.shm < SHM:
        size = "none" if found.shm is None else gigabytes(found.shm)
        yield warn(f"/dev/shm: {size}", "`sudo mount -o remount,size=8G /dev/shm`")
    else:
        yield good(f"/dev/shm of {gigabytes(found.shm)}")


def caches(found: Findings) -> Iterator[Verdict]:
    for folder in found.folders:
        label = f"{folder.name} {folder.path}"
        if not folder.writable:
            yield fail(
                f"{label} cannot be written to",
                f"`sudo chown -R $USER {folder.path}`, or choose another with "
                + ("ALIGNTUNE_CACHE_DIR" if folder.name == "our cache" else "HF_HOME"),
            )
        elif folder.free is not None and folder.free < CACHE:
            yield warn(
                f"{label} has {gigabytes(folder.free)} free",
                "Free some space: `hf cache prune`, or choose another with HF_HOME",
            )
        else:
            free = "?" if folder.free is None else gigabytes(folder.free)
            yield good(f"{label}, {free} free")


def environment(found: Findings) -> Iterator[Verdict]:
    values = found.environment
    warnings = []
    if any("cuda" in part.lower() for part in values.get("LD_LIBRARY_PATH", "").split(":")):
        warnings.append(
            warn(
                "LD_LIBRARY_PATH points to this machine's CUDA, which can replace torch's own with "
                "--engine process",
                "`unset LD_LIBRARY_PATH`, or use --engine docker",
            )
        )
    if values.get("LD_PRELOAD"):
        warnings.append(
            warn("LD_PRELOAD changes every program with --engine process", "`unset LD_PRELOAD`")
        )
    ours = {str(Path(module.__file__ or "").parents[1]) for module in (aligntune, aligntune_run)}
    foreign = [part for part in values.get("PYTHONPATH", "").split(":") if part]
    if any(str(Path(part).absolute()) not in ours for part in foreign):
        warnings.append(
            warn(
                "PYTHONPATH can hide this command's packages behind others of the same name",
                "`unset PYTHONPATH`",
            )
        )
    if values.get("BNB_CUDA_VERSION"):
        warnings.append(
            warn(
                "BNB_CUDA_VERSION makes bitsandbytes use another CUDA than torch's with --engine "
                "process",
                "`unset BNB_CUDA_VERSION`",
            )
        )
    if values.get("HF_HUB_ENABLE_HF_TRANSFER"):
        warnings.append(
            warn(
                "HF_HUB_ENABLE_HF_TRANSFER no longer has any effect",
                "`unset HF_HUB_ENABLE_HF_TRANSFER`; use HF_XET_HIGH_PERFORMANCE=1 instead",
            )
        )
    yield from warnings or [good("no variables known to cause problems")]


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
