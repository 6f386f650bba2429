"""Known failures of the stacks: their signs in a log, what they mean and how to fix them.

The signs are messages of the pinned stacks and of the libraries below them. Each matches within one
line and has bounded repeats, so the work is a small multiple of the log's length, whatever the log
holds. The table goes from the most specific failure to the least specific one.
"""

from __future__ import annotations

import os
from pathlib import Path

from aligntune.errors import AligntuneError, EngineError, ImageError, TrainingError
from aligntune_run.known_failures.base import Symptom
from aligntune_run.known_failures.driver import DRIVER
from aligntune_run.known_failures.files import FILES
from aligntune_run.known_failures.hub import HUB
from aligntune_run.known_failures.stack import STACK
from aligntune_run.known_failures.system import SYSTEM

SYMPTOMS = (*DRIVER, *SYSTEM, *STACK, *HUB, *FILES)
"""Every known failure, the most specific first; docs/doctor.md lists them in a table."""

LIMIT = 2**20
"""How much of the end of a log is searched, in bytes or characters."""

VAGUE = (AligntuneError, TrainingError, ImageError, EngineError)
"""Failures that a log may explain better; all others already say what to do."""


def explain(log: str) -> tuple[Symptom, ...]:
    """The known failures in the end of a log, the most specific first."""
    end = log[-LIMIT:]
    return tuple(symptom for symptom in SYMPTOMS if symptom.pattern.search(end))


def explained(failure: AligntuneError, log: str) -> AligntuneError:
    """Add the log's explanation to a failure that says little; return any other unchanged.

    Class and exit code stay the same: the log explains what happened, not whose fault it was.

    Args:
        failure: why the run failed.
        log: the end of everything that was printed.
    """
    if type(failure) not in VAGUE:
        return failure
    found = explain(failure.what) or explain(log)
    if not found:
        return failure
    clearer = type(failure)(
        f"{failure.what} ({found[0].means})", f"{found[0].remedy}. The full output is in train.log"
    )
    clearer.exit_code = failure.exit_code
    return clearer


def tail(log: Path, since: int = 0) -> str:
    """The last :data:`LIMIT` bytes of a log; empty if it cannot be read.

    Args:
        log: the file.
        since: offset to start from; what is before it belongs to an earlier attempt.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LIMIT, since))
            return file.read(LIMIT).decode(errors="replace")
    except OSError:
        return ""
