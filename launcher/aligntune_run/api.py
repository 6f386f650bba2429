"""The launcher as the runner of the Python API: it does what the command does."""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aligntune.api.runner import BackendStatus, Selection
from aligntune.record.schema import RunRecord
from aligntune.spec.resolve import Settings
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Task
from aligntune_run.cli import output
from aligntune_run.cli.console import agree, carry_out
from aligntune_run.planning import tasks
from aligntune_run.planning.planner import Obtaining, Prepared, inspect
from aligntune_run.planning.prepare import prepare, prepare_resume
from aligntune_run.selection import availability


class HostRunner:
    """Runs in the chosen image, or in a venv if no container engine is reachable.

    Progress is printed as the command prints it. Warnings are also Python warnings.
    """

    def plan(self, settings: Settings) -> dict[str, Any]:
        """See :class:`~aligntune.api.runner.Runner`."""
        return output.values(prepare(settings, _obtaining()))

    def train(self, settings: Settings) -> RunRecord:
        """See :class:`~aligntune.api.runner.Runner`."""
        return _carry_out(prepare(settings, _obtaining()))

    def resume(self, run_dir: Path) -> RunRecord:
        """See :class:`~aligntune.api.runner.Runner`."""
        return _carry_out(prepare_resume(run_dir, _obtaining()))

    def do(self, task: Task) -> RunRecord:
        """See :class:`~aligntune.api.runner.Runner`."""
        return _carry_out(tasks.prepare(task, _obtaining()))

    def status(self) -> dict[str, BackendStatus]:
        """See :class:`~aligntune.api.runner.Runner`."""
        return availability.look().backends

    def select(self, spec: RunSpec, model: bool) -> Selection:
        """See :class:`~aligntune.api.runner.Runner`."""
        planner = inspect(spec, _obtaining(), spec.model.name if model else None)
        choice = planner.outcome.require()
        return {
            "backend": choice.backend,
            "reason": choice.reason,
            "warnings": list(choice.warnings),
            "verdicts": [asdict(verdict) for verdict in choice.verdicts],
        }


def _obtaining() -> Obtaining:
    return Obtaining(agree=agree)


def _carry_out(prepared: Prepared) -> RunRecord:
    for message in prepared.plan.choice.warnings:
        warnings.warn(message, stacklevel=4)
    return carry_out(prepared, sys.stdout)
