"""One run, from a RunSpec to a finished run directory.

settings -> Host -> Choice -> Plan -> Engine -> Worker -> RunDir
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from aligntune.errors import (
    KINDS,
    AligntuneError,
    HardwareError,
    ImageError,
    OutOfMemoryError,
    OutputError,
    StoppedError,
    TrainingError,
)
from aligntune.record.events import Event, EventReader
from aligntune.record.run_dir import Record, RunDir, new_run_id
from aligntune.spec.resolve import Settings, from_file, resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import TASK_FILE
from aligntune.worker.trainer.arguments import refuse_owned
from aligntune.rewards import check
from aligntune_run.planning.prepare import Decided, Obtaining, Prepared, decide
from aligntune_run.engines.base import Exit, Say, Worker
from aligntune_run.runs.signals import Interrupt
from aligntune_run.plan import Plan, hub_ids, memory_limit
from aligntune_run.runs.launch import start
from aligntune_run.known_failures import explained, tail

TICK_SECONDS = 0.1

Watch = Callable[[Event], None]
"""Is told every event of a run as it happens."""


def prepare(settings: Settings, obtaining: Obtaining) -> Prepared:
    """Look at the machine and decide; nothing is changed, obtained or written.

    Args:
        settings: the request.
        obtaining: how an image or venv that is missing may be had.

    Raises:
        AligntuneError: the request cannot be carried out here.
    """
    run_id, run = _new_run(settings.spec)
    return _prepare(settings, obtaining, run, run_id, attempt=1)


def consider(spec: RunSpec, obtaining: Obtaining) -> Decided:
    """What a request would come to, as :func:`prepare` would decide; a refusal is an outcome.

    Raises:
        AligntuneError: the request is at odds with itself, or its run directory is there already.
    """
    return _decide(spec, obtaining, _new_run(spec)[1])


def _new_run(spec: RunSpec) -> tuple[str, RunDir]:
    run_id = new_run_id(spec.algorithm, spec.model.name, datetime.now())
    run = RunDir(Path(spec.output) if spec.output else Path("runs", run_id).absolute())
    run.require_new()
    return run_id, run


def _decide(spec: RunSpec, obtaining: Obtaining, run: RunDir) -> Decided:
    refuse_owned(spec)
    check(spec.rewards)
    return decide(spec, obtaining, spec.model.name, run.path)


def prepare_resume(path: Path, obtaining: Obtaining) -> Prepared:
    """Go on with a run that did not finish, from its newest checkpoint, in its own folder.

    Backend and engine stay what they were, whatever ``auto`` would choose now, and so must the
    lock: weights, optimizer and data go on where they were.

    Raises:
        OutputError: there is no such run, it has finished, is at work, or had another lock.
    """
    run = RunDir(path.absolute())
    record = run.record()
    stranger = OutputError(f"{path} is not the run directory of a run of this command")
    if "plan" not in record:
        raise stranger
    if record.get("status") == "finished":
        raise OutputError(f"{path} is a finished run", "Start a new one: leave out --resume")
    if run.in_use():
        raise OutputError(f"{path} is a run that is at work", "Stop it first")
    try:
        run_id, before = str(record["id"]), dict(record["plan"]["choice"])
        backend, engine, lock = (str(before[key]) for key in ("backend", "engine", "lock_hash"))
        attempt = int(record["plan"].get("attempt", 1)) + 1
    except (KeyError, TypeError, ValueError) as error:
        raise stranger from error
    wanted = resolve([from_file(run.spec)], run.path)
    # It was at work here before, so no estimate forbids to go on.
    same = {"backend": backend, "engine": engine, "strict": True, "fit": "warn"}
    spec = wanted.spec.model_copy(update=same)
    settings = Settings(spec, wanted.origins)
    prepared = _prepare(settings, obtaining, run, run_id, attempt)
    if prepared.plan.choice.lock_hash != lock:
        raise OutputError(
            f"{path} began on another lock ({lock[:12]}) than "
            f"{prepared.plan.choice.backend} {prepared.plan.choice.flavour} has now",
            f"Start a new run: aligntune-run -c {run.spec}, or go on with the version it began on",
        )
    return prepared


def _prepare(
    settings: Settings, obtaining: Obtaining, run: RunDir, run_id: str, attempt: int
) -> Prepared:
    spec = settings.spec
    decided = _decide(spec, obtaining, run)
    plan = Plan(
        run_id=run_id,
        run_dir=str(run.path),
        attempt=attempt,
        spec=spec,
        origins=settings.origins,
        choice=decided.outcome.require(),
        memory=memory_limit(spec.memory, decided.host.memory_usable),
        fetch=hub_ids(spec),
    )
    return decided.prepared(plan)


def obtain(prepared: Prepared, say: Say) -> Prepared:
    """Obtain the image, or make the venv, that the plan needs; the plan with its digest in it.

    Raises:
        AligntuneError: it cannot be had.
    """
    return replace(prepared, plan=prepared.engine.prepare(prepared.plan, say))


def execute(prepared: Prepared, watch: Watch) -> Record:
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
                    run.update(**_ending(refused))
                raise
            with started.lease:
                left, told = _follow(started.worker, reader, watch, interrupt)
            failure = _failure(left, told, plan)
            if failure is not None:
                failure = explained(failure, f"{left.output}\n{tail(run.log, begins)}")
                _add_exit(run, left, failure)
                raise failure
    _add_exit(run, left, None)
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


def _failure(left: Exit, told: Event | None, plan: Plan) -> AligntuneError | None:
    """The error a worker ended with: the one it told, or what its end says."""
    if left.oom and left.code != 0:  # a helper process may have been killed, and the run gone on
        return OutOfMemoryError(
            f"out of memory: the run was killed at its limit of {plan.memory / 2**30:.1f} GiB",
            "Lower training.batch_size or max_length, use --lora-rank, or raise --set memory=...",
        )
    if left.code == 0:
        return None
    if left.killed:
        return StoppedError(
            "ended at once, without a checkpoint of its own",
            plan.again.replace("Go on with", "Go on from the last one with"),
        )
    if told is not None:
        error = KINDS.get(told["kind"], AligntuneError)(told["what"], told["remedy"])
        error.exit_code = left.code
        return error
    tail = [line for line in left.output.strip().splitlines() if line.strip()]
    last = f": {tail[-1].strip()}" if tail else ""
    if left.code in (137, -signal.SIGKILL):
        return OutOfMemoryError(
            "the run was killed (signal 9), most often because memory ran out",
            "Lower training.batch_size, or see the kernel's log (dmesg)",
        )
    if left.code == 128 + signal.SIGTERM:
        return StoppedError(
            "stopped without a checkpoint, as before the worker was ready to write one",
            plan.again,
        )
    if left.code in (125, 126, 127):
        return ImageError(f"the image does not start a worker{last}", "Build it again")
    if left.code > 128:
        return TrainingError(
            f"the worker was ended by {_signal(left.code - 128)}", f"See {plan.run_dir}/train.log"
        )
    kind = next((kind for kind in KINDS.values() if kind.exit_code == left.code), TrainingError)
    return kind(f"the worker ended with code {left.code}{last}", f"See {plan.run_dir}/train.log")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _add_exit(run: RunDir, left: Exit, failure: AligntuneError | None) -> None:
    """The launcher's one addition to the record, after the worker is gone."""
    values: dict[str, Any] = {"exit": {"code": left.code, "oom": left.oom}}
    record = run.record()
    if failure is not None:
        before = record.get("error") or {}
        if record.get("status") not in ("failed", "stopped"):
            values |= _ending(failure)
        elif before.get("kind") == type(failure).__name__:
            values |= {"error": _told(failure)}  # the worker's own, and what its log explains of it
    if not run.path.exists():
        raise OutputError(f"{run.path} was removed or renamed while its run was at work")
    with run.writing(f"Mend that, then: aligntune-run --resume {run.path}"):
        run.update(**values)


def _ending(failure: AligntuneError) -> dict[str, Any]:
    """What a failure is in the record."""
    stopped = isinstance(failure, StoppedError)
    return {"status": "stopped" if stopped else "failed", "error": _told(failure)}


def _told(failure: AligntuneError) -> dict[str, str]:
    return {"kind": type(failure).__name__, "what": failure.what, "remedy": failure.remedy}
