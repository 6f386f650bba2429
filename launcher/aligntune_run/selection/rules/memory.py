"""The memory rule: whether training fits, and which changes make it fit."""

from __future__ import annotations

from typing import Literal

from aligntune.units import gib
from aligntune_run.check import Result, fails, passes, warns
from aligntune_run.host.resources import memory_limit
from aligntune_run.memory.estimate import CPU_IMPORTS, Estimate
from aligntune_run.memory.suggest import changes
from aligntune_run.models.facts import ModelFacts
from aligntune_run.selection.rules.base import Candidate

NOTHING_FITS = "Use a smaller model or another machine; --set fit=warn runs it anyway"

NOTHING_SURER = "No change to the request makes it certain to fit"


def fits(at: Candidate) -> Result | None:
    if not at.trains or at.model is None:
        return None
    needed = at.estimate
    if needed is None:
        why = f": {at.model.note}" if at.model.note else ""
        return passes(f"the memory it needs is unknown until the model is here{why}")
    available, where = _available(at)
    evidence = f"it needs about {gib(needed.expected)}, and {gib(available)} {where}"
    if needed.high <= available:
        return passes(evidence)
    remedy = _remedy(at, needed, available)
    if needed.low <= available:
        return warns(f"{evidence}: it may run out of memory", remedy)
    evidence = f"it needs at least {gib(needed.low)}, and {gib(available)} {where}"
    if at.spec.fit == "warn":
        return warns(evidence, remedy)
    return fails(evidence, remedy)


def _remedy(at: Candidate, needed: Estimate, available: int) -> str:
    """The changes with which it certainly fits, or else those with which it probably fits."""
    figures: tuple[tuple[Literal["high", "expected"], str], ...] = (
        ("high", "Fits with"),
        ("expected", "May fit with"),
    )
    for figure, label in figures:
        found = changes(
            at.spec,
            at.model or ModelFacts(),
            at.backend,
            cuda=bool(at.gpus),
            bf16=at.bf16,
            available=available,
            figure=figure,
        )
        if found:
            return f"{label} {' '.join(found)}"
    return NOTHING_SURER if needed.expected <= available else NOTHING_FITS


def _available(at: Candidate) -> tuple[int, str]:
    """The bytes training can use, and where they are, in words."""
    if at.gpus:
        least = min(at.gpus, key=lambda gpu: gpu.free)
        return least.free, f"are free on {least.name}"
    limit = min(memory_limit(at.spec.memory, at.host.memory_usable), at.host.memory_usable)
    return max(limit - CPU_IMPORTS[at.backend], 0), "are available"
