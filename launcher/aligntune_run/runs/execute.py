"""One run, from its plan to a finished run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, HardwareError
from aligntune.record.events import Event, EventReader
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import RunRecord
from aligntune.tasks import TASK_FILE
from aligntune_run.engines.base import Exit, Say, Worker
from aligntune_run.known_failures.explain import explained, tail
from aligntune_run.plan import Plan
from aligntune_run.planning.decide import Prepared
from aligntune_run.runs.launch import start
from aligntune_run.runs.outcome import ending_fields, find_failure, record_exit
from aligntune_run.runs.signals import Interrupt

TICK_SECONDS = 0.1

Watch = Callable[[Event], None]
"""Is told every event of a run as it happens."""


def obtain(prepared: Prepared, say: Say) -> Prepared:
    """Obtain the image, or make the venv, that the plan needs; the plan with its digest in it.

    Raises:
        AligntuneError: it cannot be had.
    """
    return replace(prepared, plan=prepared.engine.prepare(prepared.plan, say))


def execute(prepared: Prepared, watch: Watch) -> RunRecord:
    """Carry out a plan and return the record of the run.

    Ctrl-C and SIGTERM ask the worker to checkpoint and end; a second one ends it at once.

    Raises:
        AligntuneError: the run failed; the class and the exit code are those of what went wrong.
    """
    plan = prepared.plan
    run = RunDir(Path(plan.run_dir))
    resumed = plan.attempt > 1
    if resumed:
        with run.writing("Mend that, and go on with --resume again"):
            run.update(status="planned", plan=plan.to_dict(), error=None)
    else:
        _create(run, plan)
    reader = EventReader(run.events, skip=resumed)

    def keep(changed: Plan) -> None:
        with run.writing("Mend that, and try again"):
            run.update(plan=changed.to_dict())

    begins = run.log.stat().st_size if run.log.exists() else 0
    with Interrupt() as interrupt:
        for command in prepared.engine.commands(plan):
            try:
                started = start(prepared, command, keep, watch, interrupt)
            except AligntuneError as refused:
                if isinstance(refused, HardwareError) and plan.task is None:
                    refused.remedy = f"{plan.again} --wait"
                with run.writing(f"The run itself failed: {refused}"):
                    run.update(**ending_fields(refused))
                raise
            with started.lease:
                left, told = _follow(started.worker, reader, watch, interrupt)
            failure = find_failure(left, told, plan)
            if failure is not None:
                failure = explained(failure, f"{left.output}\n{tail(run.log, begins)}")
                record_exit(run, left, failure)
                raise failure
    record_exit(run, left, None)
    return run.record()


def _create(run: RunDir, plan: Plan) -> None:
    """Make the run directory with its first record; a task's has the task in it."""
    values: dict[str, Any] = {"plan": plan.to_dict()}
    values |= {"fetched": plan.fetched} if plan.fetched else {}
    values |= {"task": plan.task.model_dump(mode="json")} if plan.task else {}
    run.create(plan.run_id, plan.spec, **values)
    if plan.task:
        with run.writing("Mend that, and try again"):
            (run.path / TASK_FILE).write_text(plan.task.model_dump_json(indent=2), "utf-8")


def _follow(
    worker: Worker, reader: EventReader, watch: Watch, interrupt: Interrupt
) -> tuple[Exit, Event | None]:
    """Tell a worker's events until it ends; how it ended, and the error it told."""
    told: Event | None = None
    interrupt.attach(worker)
    left: Exit | None = None
    while left is None:
        left = worker.wait(TICK_SECONDS)
        for event in reader:
            told = event if event["event"] == "error" else told
            watch(event)
    interrupt.attach(None)
    return left, told
