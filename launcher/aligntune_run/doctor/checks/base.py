"""What a check says: how it is, the evidence, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aligntune.errors import AligntuneError
from aligntune_run.doctor.probe import Findings
from aligntune_run.plan import Verdict

Check = Callable[[Findings], Iterable[Verdict]]
"""Says nothing where it does not apply."""

Checks = dict[str, tuple[Check, type[AligntuneError]]]
"""Name -> check, and the class whose exit code a failure of it has."""


def good(evidence: str) -> Verdict:
    return Verdict("", "", "pass", evidence)


def warn(evidence: str, remedy: str) -> Verdict:
    """Something to know; training goes on in spite of it."""
    return Verdict("", "", "warn", evidence, remedy)


def fail(evidence: str, remedy: str) -> Verdict:
    """Training, or the part of it that the check is about, does not work like this."""
    return Verdict("", "", "fail", evidence, remedy)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
