"""The rules that choose a backend: small pure functions from a situation to a verdict.

A rule returns a result with its evidence, or None if it does not apply. To add a rule, write it and
put it in :data:`OF_THE_MACHINE`, which applies to every backend, or in :data:`OF_A_BACKEND`. Rules
look only at the situation.
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
