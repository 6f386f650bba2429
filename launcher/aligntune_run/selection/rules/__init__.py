"""The rules that choose a backend: small pure functions from a situation to a verdict.

A rule returns a result with its evidence, or None if it does not apply. To add a rule, write a
function with ``@MACHINE.check(...)`` in :mod:`~aligntune_run.selection.rules.machine` if it applies
once, or with ``@BACKEND.check(...)`` in :mod:`~aligntune_run.selection.rules.backend` if it applies
to each backend. Rules look only at the situation.
"""

# The modules of the rules, which add them to the two groups.
from aligntune_run.selection.rules import backend, machine  # noqa: F401
from aligntune_run.selection.rules.base import BACKEND, MACHINE, Candidate, Facts, Situation

__all__ = ["BACKEND", "MACHINE", "Candidate", "Facts", "Situation"]
