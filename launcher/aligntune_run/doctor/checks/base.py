"""The two groups of doctor's own checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aligntune.record.run_dir import RunDir
from aligntune.record.schema import RunRecord
from aligntune_run.check import Scope
from aligntune_run.doctor.probe import Container, Findings

MACHINE = Scope[Findings]()
"""What the rules of :mod:`aligntune_run.selection.rules` do not say of a machine. A check with the
name of a rule is shown instead of that rule, because it knows more.
"""


@dataclass(frozen=True)
class EndedRun:
    """One run and what still works on it.

    Attributes:
        containers: the run's own containers.
        running: whether a process or a container is working on it.
    """

    dir: RunDir
    record: RunRecord
    containers: Sequence[Container]
    running: bool

    @property
    def unfinished(self) -> bool:
        """Whether it has ended and is not finished."""
        return not self.record.is_finished and not self.running


RUN = Scope[EndedRun]()
"""What is said of one run."""
