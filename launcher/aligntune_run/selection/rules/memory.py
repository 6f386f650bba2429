"""The rule of memory: whether a training fits, and with what changes it would."""

from __future__ import annotations

from typing import Literal

from aligntune_run.host.resources import memory_limit
from aligntune_run.memory.estimate import CPU_IMPORTS, Estimate
from aligntune_run.memory.suggest import changes
from aligntune_run.models.facts import ModelFacts
from aligntune_run.selection.rules.base import Candidate, Said

NOTHING_FITS = "Use a smaller model or another machine; --set fit=warn tries all the same"

NOTHING_SURER = "No change of the request makes it sure"


def fits(at: Candidate) -> Said | None:
    if not at.trains or at.model is None:
        return None
    needed = at.estimate
    if needed is None:
        why = f": {at.model.note}" if at.model.note else ""
        return Said("pass", f"how much it takes is not known before the model is here{why}")
    available, where = _available(at)
    told = f"it takes about {gib(needed.expected)}, and {gib(available)} {where}"
    if needed.high <= available:
        return Said("pass", told)
    remedy = _remedy(at, needed, available)
    if needed.low <= available:
        return Said("warn", f"{told}: it may run out of memory", remedy)
    told = f"it takes {gib(needed.low)} at the very least, and {gib(available)} {where}"
    if at.spec.fit == "warn":
        return Said("warn", told, remedy)
    return Said("fail", told, remedy)


def _remedy(at: Candidate, needed: Estimate, available: int) -> str:
    """Changes with which it surely fits, or else those with which it is expected to."""
    figures: tuple[tuple[Literal["high", "expected"], str], ...] = (
        ("high", "Fits with"),
        ("expected", "May fit with"),
    )
    for figure, words in figures:
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
            return f"{words} {' '.join(found)}"
    return NOTHING_SURER if needed.expected <= available else NOTHING_FITS


def _available(at: Candidate) -> tuple[int, str]:
    """Bytes that training may take, and where they are, in words."""
    if at.gpus:
        least = min(at.gpus, key=lambda gpu: gpu.free)
        return least.free, f"are free on {least.name}"
    limit = min(memory_limit(at.spec.memory, at.host.memory_usable), at.host.memory_usable)
    return max(limit - CPU_IMPORTS[at.backend], 0), "are there for it"


def gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB"
