"""How a run begins, or continues where it was stopped."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir
from aligntune.record.unchanged import changed_settings, require_same_spec
from aligntune.spec.run_spec import RunSpec


def claim(run: RunDir, spec: RunSpec, note: Callable[[str], None]) -> None:
    """Mark a run as running. A finished run is never overwritten, and a resumed one stays itself.

    Raises:
        OutputError: the run has finished.
        SpecError: the spec names another model, adapter, data or rewards than the run began with.
    """
    before, now = run.record(), spec.model_dump(mode="json")
    if before.is_finished:
        raise OutputError(f"{run.path} contains a finished run", "Use a new run directory")
    require_same_spec(before.spec, now)
    if changed := changed_settings(before.spec, now):
        note(f"spec.yaml has changed since the run began: {changed}")
    run.update(status="running", spec=now)
    if not run.spec.exists():
        run.spec.write_text(spec.to_yaml(), encoding="utf-8")


def newest_checkpoint(run: RunDir) -> str | None:
    """The newest complete checkpoint in the run directory, if there is one.

    The trainer writes its state last. A checkpoint without a readable state is incomplete and is
    deleted.
    """
    names = (path.name for path in run.checkpoints.glob("checkpoint-*"))
    steps = [int(name.split("-")[1]) for name in names if re.fullmatch(r"checkpoint-\d+", name)]
    for step in sorted(steps, reverse=True):
        path = run.checkpoints / f"checkpoint-{step}"
        with suppress(OSError, ValueError):
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path)
        shutil.rmtree(path)
    return None


def starting_point(run: RunDir, checkpoint: str | None) -> str:
    """The step from which a resumed run continues, for the user; empty for a new run."""
    if checkpoint:
        return f"resuming from step {checkpoint.rpartition('-')[2]}"
    plan = run.record().plan
    if plan and plan.attempt > 1:
        return "resuming from the first step, because no checkpoint was saved yet"
    return ""
