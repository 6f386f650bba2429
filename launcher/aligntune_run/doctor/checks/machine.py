"""Checks of the machine itself: platform, memory, folders, environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aligntune
import aligntune_run
from aligntune.errors import EngineError, OutOfMemoryError, OutputError, SpecError
from aligntune.units import gib
from aligntune_run.check import Result, fails, passes, warns
from aligntune_run.doctor.checks.base import MACHINE
from aligntune_run.doctor.probe import Findings

MEMORY = 4 * 10**9
"""With less than this, only a tiny model fits: imports alone take 1 GB."""

SHM = 10**9
CACHE = 10 * 10**9
"""About the size of a model of a few billion parameters, or of a venv."""


@MACHINE.check("python", EngineError)
def _python(findings: Findings) -> Iterator[Result]:
    venv = "a venv can be made for --engine process"
    yield passes(f"Python {findings.python}; {findings.no_venv.rstrip('.') or venv}")


@MACHINE.check("memory", OutOfMemoryError)
def _memory(findings: Findings) -> Iterator[Result]:
    evidence = (
        f"{gib(findings.host.memory)}, {gib(findings.available)} of it available, swap "
        f"{gib(findings.swap)}, {findings.host.cpus} CPUs"
    )
    if findings.available < MEMORY:
        yield warns(evidence, "Stop what uses it; `ps aux --sort=-rss | head` lists it")
    else:
        yield passes(evidence)


@MACHINE.check("shm", OutOfMemoryError)
def _shm(findings: Findings) -> Iterator[Result]:
    if findings.host.engine.reachable:
        yield passes("containers get a /dev/shm of half their memory")
    elif findings.shm is None or findings.shm < SHM:
        size = "none" if findings.shm is None else gib(findings.shm)
        yield warns(f"/dev/shm: {size}", "`sudo mount -o remount,size=8G /dev/shm`")
    else:
        yield passes(f"/dev/shm of {gib(findings.shm)}")


@MACHINE.check("caches", OutputError)
def _caches(findings: Findings) -> Iterator[Result]:
    for folder in findings.folders:
        label = f"{folder.name} {folder.path}"
        if not folder.writable:
            yield fails(
                f"{label} cannot be written to",
                f"`sudo chown -R $USER {folder.path}`, or choose another with "
                + ("ALIGNTUNE_CACHE_DIR" if folder.name == "our cache" else "HF_HOME"),
            )
        elif folder.free is not None and folder.free < CACHE:
            yield warns(
                f"{label} has {gib(folder.free)} free",
                "Free some space: `hf cache prune`, or choose another with HF_HOME",
            )
        else:
            free = "?" if folder.free is None else gib(folder.free)
            yield passes(f"{label}, {free} free")


@MACHINE.check("environment", SpecError)
def _environment(findings: Findings) -> Iterator[Result]:
    values = findings.environment
    warnings = []
    if any("cuda" in part.lower() for part in values.get("LD_LIBRARY_PATH", "").split(":")):
        warnings.append(
            warns(
                "LD_LIBRARY_PATH points to this machine's CUDA, which can replace torch's own with "
                "--engine process",
                "`unset LD_LIBRARY_PATH`, or use --engine docker",
            )
        )
    if values.get("LD_PRELOAD"):
        warnings.append(
            warns("LD_PRELOAD changes every program with --engine process", "`unset LD_PRELOAD`")
        )
    ours = {str(Path(module.__file__ or "").parents[1]) for module in (aligntune, aligntune_run)}
    foreign = [part for part in values.get("PYTHONPATH", "").split(":") if part]
    if any(str(Path(part).absolute()) not in ours for part in foreign):
        warnings.append(
            warns(
                "PYTHONPATH can hide this command's packages behind others of the same name",
                "`unset PYTHONPATH`",
            )
        )
    if values.get("BNB_CUDA_VERSION"):
        warnings.append(
            warns(
                "BNB_CUDA_VERSION makes bitsandbytes use another CUDA than torch's with --engine "
                "process",
                "`unset BNB_CUDA_VERSION`",
            )
        )
    if values.get("HF_HUB_ENABLE_HF_TRANSFER"):
        warnings.append(
            warns(
                "HF_HUB_ENABLE_HF_TRANSFER no longer has any effect",
                "`unset HF_HUB_ENABLE_HF_TRANSFER`; use HF_XET_HIGH_PERFORMANCE=1 instead",
            )
        )
    yield from warnings or [passes("no variables known to cause problems")]


@MACHINE.check("settings", SpecError)
def _settings(findings: Findings) -> Iterator[Result]:
    names = sorted(name for name in findings.environment if name.startswith("ALIGNTUNE_"))
    if names:
        yield passes(f"set for every run: {', '.join(names)}")
