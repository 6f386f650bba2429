"""One run, from its plan to a finished run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, HardwareError, OutputError, StoppedError
from aligntune.record.events import Event, EventReader
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import RunRecord
from aligntune.tasks import TASK_FILE, fitting_remedy
from aligntune_run.engines.base import Engine, Exit, Say, Worker
from aligntune_run.known_failures.explain import explained, tail
from aligntune_run.plan import Plan
from aligntune_run.planning.planner import Prepared
from aligntune_run.runs.launch import start
from aligntune_run.runs.outcome import ending_fields, find_failure, record_exit
from aligntune_run.runs.signals import Interrupt

TICK_SECONDS = 0.1

Watch = Callable[[Event], None]
"""Gets every event of a run as it happens."""


def obtain(prepared: Prepared, say: Say) -> Prepared:
    """Obtain the image or make the venv that the plan needs; the plan then has the image's digest.

    Raises:
        AligntuneError: it is unavailable.
    """
    return replace(prepared, plan=prepared.engine.prepare(prepared.plan, say))


def execute(prepared: Prepared, watch: Watch) -> RunRecord:
    """Carry out a plan and return the record of the run.

    Ctrl-C and SIGTERM ask the worker to checkpoint and end; a second signal ends it at once.

    Raises:
        AligntuneError: the run failed; the class and the exit code are those of what went wrong.
    """
    plan = prepared.plan
    run = RunDir(Path(plan.run_dir))
    resumed = plan.attempt > 1
    if resumed:
        with run.writing("Fix that, and --resume again"):
            cleared = {"error": None, "exit": None, "handle": None, "phase": None}
            run.update(status="planned", plan=plan.to_dict(), **cleared)
    else:
        _create(run, plan)
    reader = EventReader(run.events, skip=resumed)

    begins = run.log.stat().st_size if run.log.exists() else 0
    with Interrupt() as interrupt:
        for command in prepared.engine.commands(plan):
            try:
                worker = start(prepared, command, run, watch, interrupt)
            except AligntuneError as refused:
                if isinstance(refused, HardwareError) and plan.task is None:
                    refused.remedy = f"{plan.next_step} --wait"
                with run.writing(f"The run itself failed: {refused}"):
                    run.update(**ending_fields(refused))
                raise
            left, error = _follow(worker, reader, watch, interrupt, plan)
            failure = find_failure(left, error, plan, command.phase, run.record())
            if failure is not None:
                failure = explained(failure, f"{left.output}\n{tail(run.log, begins)}")
                if plan.task is not None:
                    failure.remedy = fitting_remedy(plan.task, failure)
                record_exit(run, left, failure)
                raise failure
    record_exit(run, left, None)
    return run.record()


def attach(run: RunDir, engine: Engine, watch: Watch) -> RunRecord:
    """Follow a run whose launcher is gone to its end, record its exit and return its record.

    Ctrl-C and SIGTERM reach the worker as in :func:`execute`.

    Args:
        run: the run directory.
        engine: the engine of the recorded handle.
        watch: gets every event of the run, those from before this call included.

    Raises:
        OutputError: no worker was started in the run directory.
        AligntuneError: the run failed; the class and the exit code are those of what went wrong.
    """
    record = run.record()
    plan = Plan.from_record(record)
    if record.handle is None:
        raise OutputError(f"{run.path} has no worker: its run never started", plan.next_step)
    if record.exit is not None:
        return record
    worker = engine.attach(record.handle)
    with Interrupt() as interrupt:
        left, _ = _follow(worker, EventReader(run.events), watch, interrupt, plan)
    now = run.record()
    error = now.error  # of this attempt: an earlier one's was cleared when it resumed
    failure = find_failure(left, error.model_dump() if error else None, plan, record.phase, now)
    if failure is None and record.phase != plan.phases[-1]:
        failure = StoppedError(f"its launcher was killed during {record.phase}", plan.next_step)
    if failure is not None:
        failure = explained(failure, f"{left.output}\n{tail(run.log)}")
        record_exit(run, left, failure)
        raise failure
    record_exit(run, left, None)
    return run.record()


def _create(run: RunDir, plan: Plan) -> None:
    """Make the run directory with its first record and, for a task, the task file."""
    values: dict[str, Any] = {"plan": plan.to_dict()}
    values |= {"fetched": plan.fetched} if plan.fetched else {}
    values |= {"task": plan.task.model_dump(mode="json")} if plan.task else {}
    run.create(plan.run_id, plan.spec, **values)
    if plan.task:
        with run.writing("Fix that, and try again"):
            (run.path / TASK_FILE).write_text(plan.task.model_dump_json(indent=2), "utf-8")


def _follow(
    worker: Worker, reader: EventReader, watch: Watch, interrupt: Interrupt, plan: Plan
) -> tuple[Exit, Event | None]:
    """Pass on a worker's events until it ends; how it ended, and its error event."""
    error: Event | None = None
    interrupt.attach(worker)
    left: Exit | None = None
    try:
        while left is None:
            left = worker.wait(TICK_SECONDS)
            for event in reader:
                error = event if event["event"] == "error" else error
                watch(event)
            if left is None and (answer := interrupt.answer(saves=plan.task is None)):
                watch({"event": "note", "message": answer})
    finally:
        worker.detach()
    interrupt.attach(None)
    return left, error
