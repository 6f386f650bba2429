"""What carries out what the API asks for: the launcher on a host, this very process in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypedDict

from aligntune.record.schema import RunRecord
from aligntune.spec.resolve import Settings
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Task


class BackendStatus(TypedDict):
    """Whether a backend can be had here, and why.

    Attributes:
        available: whether it can.
        reason: what it would run with, or what is in its way.
        verdicts: what each rule said: ``rule``, ``level`` (pass, warn or fail), ``evidence``.
    """

    available: bool
    reason: str
    verdicts: list[dict[str, Any]]


class Selection(TypedDict):
    """What would be chosen for a request: ``verdicts`` also have the ``backend`` they are of."""

    backend: str
    reason: str
    warnings: list[str]
    verdicts: list[dict[str, Any]]


class Runner(Protocol):
    """Carries out requests. What it raises is an :class:`~aligntune.errors.AligntuneError`."""

    def plan(self, settings: Settings) -> dict[str, Any]:
        """What :meth:`train` would do: ``spec``, ``plan`` and ``commands``; changes nothing."""

    def train(self, settings: Settings) -> RunRecord:
        """Train, and return the finished run's record."""

    def resume(self, run: Path) -> RunRecord:
        """Go on with a run that did not finish, and return its record."""

    def do(self, task: Task) -> RunRecord:
        """Do something with a finished run, and return the record of that."""

    def status(self) -> dict[str, BackendStatus]:
        """What can be had here, by backend; changes and obtains nothing."""

    def select(self, spec: RunSpec, model: bool) -> Selection:
        """What would be chosen for a request; ``model`` says whether its model is part of it."""
