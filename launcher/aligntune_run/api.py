"""The launcher as the Python API's runner: what the command does, for a program or a notebook."""

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
    """Runs in the chosen image, or in a venv where there is no engine.

    Progress is printed as by the command. Warnings stand there too, and are Python warnings.
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
            "verdicts": [asdict(one) for one in choice.verdicts],
        }


def _obtaining() -> Obtaining:
    return Obtaining(agree=agree)


def _carry_out(prepared: Prepared) -> RunRecord:
    for message in prepared.plan.choice.warnings:
        warnings.warn(message, stacklevel=4)
    return carry_out(prepared, sys.stdout)
