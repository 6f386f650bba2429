"""The results of checks: a level, the evidence and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aligntune.errors import AligntuneError
from aligntune_run.doctor.probe import Findings
from aligntune_run.plan import Verdict

Check = Callable[[Findings], Iterable[Verdict]]
"""A check yields nothing if it does not apply."""

Checks = dict[str, tuple[Check, type[AligntuneError]]]
"""Name -> check, and the error class whose exit code a failure has."""


def good(evidence: str) -> Verdict:
    return Verdict("", "", "pass", evidence)


def warn(evidence: str, remedy: str) -> Verdict:
    """Something to know; training works anyway."""
    return Verdict("", "", "warn", evidence, remedy)


def fail(evidence: str, remedy: str) -> Verdict:
    """Training, or the part the check is about, does not work."""
    return Verdict("", "", "fail", evidence, remedy)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
