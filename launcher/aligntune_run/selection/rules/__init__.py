"""The rules by which a backend is chosen: small pure functions from a situation to a verdict.

A rule says what it found with its evidence, or None where it does not apply. To add one, write it
and put it in :data:`OF_THE_MACHINE`, which holds whichever backend is taken, or in
:data:`OF_A_BACKEND`. Nothing here looks at anything but the situation.
"""

from aligntune_run.selection.rules.backend import OF_A_BACKEND, runs
from aligntune_run.selection.rules.base import Candidate, Facts, Situation, judge
from aligntune_run.selection.rules.machine import OF_THE_MACHINE
from aligntune_run.selection.rules.memory import gib

__all__ = [
    "OF_A_BACKEND",
    "OF_THE_MACHINE",
    "Candidate",
    "Facts",
    "Situation",
    "gib",
    "judge",
    "runs",
]
