"""The interface that runs the API's requests: the launcher on a host, this process in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypedDict

from aligntune.record.schema import RunRecord
from aligntune.spec.resolve import Settings
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Task


class BackendStatus(TypedDict):
    """Whether a backend is available here, and why.

    Attributes:
        available: whether it is available.
        reason: what it would run with, or what prevents it.
        verdicts: the result of each rule: ``rule``, ``level`` (pass, warn or fail), ``evidence``.
    """

    available: bool
    reason: str
    verdicts: list[dict[str, Any]]


class Selection(TypedDict):
    """The choice for a request; its ``verdicts`` also name their ``backend``."""

    backend: str
    reason: str
    warnings: list[str]
    verdicts: list[dict[str, Any]]


class Runner(Protocol):
    """Runs requests. All its errors are :class:`~aligntune.errors.AligntuneError`."""

    def plan(self, settings: Settings) -> dict[str, Any]:
        """Plan what :meth:`train` does: ``spec``, ``plan`` and ``commands``; changes nothing."""

    def train(self, settings: Settings) -> RunRecord:
        """Train, and return the finished run's record."""

    def resume(self, run: Path) -> RunRecord:
        """Resume an unfinished run, and return its record."""

    def do(self, task: Task) -> RunRecord:
        """Run a task on a finished run, and return the task's record."""

    def status(self) -> dict[str, BackendStatus]:
        """The availability of each backend here; changes and downloads nothing."""

    def select(self, spec: RunSpec, model: bool) -> Selection:
        """The choice for a request; ``model`` is whether to consider its model."""
