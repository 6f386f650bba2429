"""One run, from a RunSpec to a finished run directory.

settings -> Host -> Choice -> Plan -> Engine -> Worker -> RunDir
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from aligntune.errors import (
    KINDS,
    AligntuneError,
    ImageError,
    OutOfMemoryError,
    OutputError,
    StoppedError,
    TrainingError,
)
from aligntune.events import Event, EventReader
from aligntune.rundir import Record, RunDir, new_run_id
from aligntune.settings import Settings, from_file, resolve
from aligntune.spec import RunSpec, is_local
from aligntune.tasks import TASK_FILE
from aligntune.training.arguments import refuse_owned
from aligntune.training.rewards import check
from aligntune_run import images
from aligntune_run.choose import choose
from aligntune_run.engines import Command, Engine, Exit, Say
from aligntune_run.engines.connect import connect
from aligntune_run.host import Host, ImageState, memory_total, probe, probe_engine
from aligntune_run.hub_models import read_hub_model
from aligntune_run.interrupt import Interrupt
from aligntune_run.models import read_model
from aligntune_run.plan import Choice, Plan, hub_ids, memory_limit
from aligntune_run.preflight import require_writable

TICK_SECONDS = 0.1

Watch = Callable[[Event], None]
"""Is told every event of a run as it happens."""


@dataclass(frozen=True)
class Obtaining:
    """How what is missing may be had.

    Attributes:
        find_links: folders or pages with wheels that no index has.
        agree: is asked before gigabytes are fetched, with their size in the question.
    """

    find_links: tuple[str, ...] = ()
    agree: Callable[[str], bool] = lambda question: True


@dataclass(frozen=True)
class Prepared:
    """A plan, and the engine that can carry it out on this host."""

    plan: Plan
    host: Host
    engine: Engine


def prepare(settings: Settings, obtaining: Obtaining = Obtaining()) -> Prepared:
    """Look at the machine and decide; nothing is changed, obtained or written.

    Args:
        settings: the request.
        obtaining: how an image or venv that is missing may be had.

    Raises:
        AligntuneError: the request cannot be carried out here.
    """
    spec = settings.spec
    run_id = new_run_id(spec.algorithm, spec.model.name, datetime.now())
    run = RunDir(Path(spec.output) if spec.output else Path("runs", run_id).absolute())
    run.require_new()
    return _prepare(settings, obtaining, run, run_id, attempt=1)


def prepare_resume(path: Path, obtaining: Obtaining = Obtaining()) -> Prepared:
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
    spec = wanted.spec.model_copy(update={"backend": backend, "engine": engine, "strict": True})
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
    refuse_owned(spec)
    check(spec.rewards)
    decided = decide(spec, obtaining, spec.model.name)
    require_writable(run.path)
    plan = Plan(
        run_id=run_id,
        run_dir=str(run.path),
        attempt=attempt,
        spec=spec,
        origins=settings.origins,
        choice=decided.choice,
        memory=memory_limit(spec.memory, decided.memory),
        fetch=hub_ids(spec),
    )
    return Prepared(plan, decided.host, decided.engine)


@dataclass(frozen=True)
class Decided:
    """What will run a request; ``memory`` is what there is, in bytes."""

    choice: Choice
    host: Host
    engine: Engine
    memory: int


def decide(spec: RunSpec, obtaining: Obtaining, model: str | None) -> Decided:
    """Look at the machine and choose.

    Args:
        spec: the request.
        obtaining: how an image or venv that is missing may be had.
        model: folder or hub id that is loaded; None where none is.

    Raises:
        AligntuneError: nothing can run this.
    """
    known = None if model is None else read_model(model)
    client, reason = (None, "--engine process") if spec.engine == "process" else connect()
    engine = probe_engine(client, reason)
    host = probe(engine, _images(spec, client, obtaining))
    if model and host.gpus and spec.backend != "trl" and not is_local(model):
        # Only the choice between backends needs to know, and it is only open on a GPU.
        revision = spec.model.revision
        known = read_hub_model(model, revision, host.hub_cache, os.environ, host.token)
    choice = choose(spec, host, known, images.facts())
    total = min(filter(None, (engine.memory, memory_total())))
    return Decided(choice, host, _engine(choice.engine, host, client, obtaining), total)


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
    with Interrupt() as interrupt:
        for command in prepared.engine.commands(plan):
            left, told = _follow(prepared.engine, command, reader, watch, interrupt)
            failure = _failure(left, told, plan)
            if failure is not None:
                _add_exit(run, left, failure)
                raise failure
    _add_exit(run, left, None)
    return run.record()


def _images(spec: RunSpec, client: Any | None, obtaining: Obtaining) -> tuple[ImageState, ...]:
    """The images there are to choose from: the user's own if one is named, else the pinned."""
    if client is not None and spec.image:
        return (images.derived_state(client, spec.image),)
    return images.states(client, spec.pull, obtaining.find_links)


def _engine(kind: str, host: Host, client: Any, obtaining: Obtaining) -> Engine:
    find_links = obtaining.find_links
    if kind == "docker":
        from aligntune_run.engines.docker import DockerEngine

        return DockerEngine(client, host, find_links=find_links, agree=obtaining.agree)
    from aligntune_run.engines.process import ProcessEngine

    return ProcessEngine(host, find_links=find_links, agree=obtaining.agree)


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
    engine: Engine, command: Command, reader: EventReader, watch: Watch, interrupt: Interrupt
) -> tuple[Exit, Event | None]:
    """Start a worker and tell its events until it ends; how it ended, and the error it told."""
    told: Event | None = None
    worker = engine.start(command)
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
    again = "Try again" if plan.task else f"Go on with: aligntune-run --resume {plan.run_dir}"
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
            again.replace("Go on with", "Go on from the last one with"),
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
            again,
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
    if failure is not None and record.get("status") not in ("failed", "stopped"):
        told = {"kind": type(failure).__name__, "what": failure.what, "remedy": failure.remedy}
        stopped = isinstance(failure, StoppedError)
        values |= {"status": "stopped" if stopped else "failed", "error": told}
    if not run.path.exists():
        raise OutputError(f"{run.path} was removed or renamed while its run was at work")
    with run.writing(f"Mend that, then: aligntune-run --resume {run.path}"):
        run.update(**values)
