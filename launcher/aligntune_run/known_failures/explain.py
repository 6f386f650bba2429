"""Known failures of the stacks: what they look like in a log, what they mean, what mends them.

The signs are the words of the pinned stacks and of the libraries below them. Each is matched within
one line, and repeats only so often as it says: so the work is a small multiple of the log's length,
whatever the log holds. The table goes from what tells most to what tells least.
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
"""Every known failure, the most telling first; docs/doctor.md has them as a table."""

LIMIT = 2**20
"""How much of the end of a log is looked at, in bytes or characters."""

VAGUE = (AligntuneError, TrainingError, ImageError, EngineError)
"""Failures of which a log may tell more than they do; all others already say what to do."""


def explain(log: str) -> tuple[Symptom, ...]:
    """The known failures that the end of a log shows, the most telling first."""
    end = log[-LIMIT:]
    return tuple(symptom for symptom in SYMPTOMS if symptom.pattern.search(end))


def explained(failure: AligntuneError, log: str) -> AligntuneError:
    """A failure that says little, with what the log says it is; any other as it is.

    Class and exit code stay: the log explains what happened, and does not judge whose fault it was.

    Args:
        failure: what the run failed of.
        log: the end of everything that was printed.
    """
    if type(failure) not in VAGUE:
        return failure
    found = explain(failure.what) or explain(log)
    if not found:
        return failure
    told = type(failure)(
        f"{failure.what} ({found[0].means})", f"{found[0].mend}. All of it is in train.log"
    )
    told.exit_code = failure.exit_code
    return told


def tail(log: Path, since: int = 0) -> str:
    """The last :data:`LIMIT` bytes of a log; empty where there is none that can be read.

    Args:
        log: the file.
        since: offset where it begins to matter, as an earlier attempt wrote what is before.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LIMIT, since))
            return file.read(LIMIT).decode(errors="replace")
    except OSError:
        return ""
