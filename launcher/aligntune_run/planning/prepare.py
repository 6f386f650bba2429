"""From a request to a plan, for a new run or a resumed one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from aligntune.errors import EngineError, OutputError
from aligntune.record.run_dir import RunDir, base_model, new_run_id
from aligntune.record.schema import RunRecord
from aligntune.record.unchanged import require_same_spec
from aligntune.rewards import check
from aligntune.spec.layers import from_file
from aligntune.spec.paths import similar_path
from aligntune.spec.resolve import Settings, resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.trainer_args import refuse_owned
from aligntune_run.engines.registry import find_engine
from aligntune_run.host.resources import memory_limit
from aligntune_run.plan import Plan, hub_ids
from aligntune_run.planning.planner import Obtaining, Planner, Prepared, inspect


def prepare(settings: Settings, obtaining: Obtaining) -> Prepared:
    """Inspect the machine and decide. Nothing is changed, downloaded or written.

    Args:
        settings: the request.
        obtaining: how a missing image or venv may be obtained.

    Raises:
        AligntuneError: the request cannot be carried out here.
    """
    run_id, run = _new_run(settings.spec)
    return _prepare(settings, obtaining, run, run_id, attempt=1)


def consider(spec: RunSpec, obtaining: Obtaining) -> Planner:
    """What :func:`prepare` would decide about a request; a refusal is an outcome.

    Raises:
        AligntuneError: the request contradicts itself, or its run directory exists.
    """
    return _inspect(spec, obtaining, _new_run(spec)[1])


def _new_run(spec: RunSpec) -> tuple[str, RunDir]:
    run_id = new_run_id(spec.algorithm, base_model(spec), datetime.now())
    run = RunDir(Path(spec.output) if spec.output else Path("runs", run_id).absolute())
    run.require_new()
    return run_id, run


def _inspect(spec: RunSpec, obtaining: Obtaining, run: RunDir) -> Planner:
    refuse_owned(spec)
    check(spec.rewards)
    return inspect(spec, obtaining, spec.model.name, run.path)


def prepare_resume(path: Path, obtaining: Obtaining) -> Prepared:
    """Resume an unfinished run from its newest checkpoint, in its own folder.

    Backend and engine stay the same, whatever ``auto`` would choose now. The lock must be the same
    too, so that weights, optimizer and data continue unchanged.

    Raises:
        OutputError: no such run exists, it has finished, it is at work, or its lock has changed.
        SpecError: its ``spec.yaml`` now names another model, adapter, data or rewards.
    """
    run = RunDir(path.absolute())
    record = run.record()
    near = similar_path(str(path), Path.cwd())
    stranger = OutputError(
        f"{path} is not the run directory of a run of this command",
        f"Did you mean {near}?" if near else "",
    )
    before = record.choice
    if record.plan is None:
        raise stranger
    if record.is_finished:
        raise OutputError(f"{path} is a finished run", "Start a new one: leave out --resume")
    if run.in_use() or _is_running(record):
        raise OutputError(f"{path} is a run that is at work", "Stop it first")
    if record.id is None or None in (before.backend, before.engine, before.lock_hash):
        raise stranger
    wanted = resolve([from_file(run.spec)], run.path)
    # It ran here before, so an estimate must not refuse it.
    same = {
        "backend": before.backend,
        "engine": before.engine,
        "strict": True,
        "fit": "warn",
    }
    require_same_spec(record.spec, wanted.spec.model_dump(mode="json"))
    spec = wanted.spec.model_copy(update=same)
    settings = Settings(spec, wanted.origins)
    prepared = _prepare(settings, obtaining, run, record.id, record.plan.attempt + 1)
    if prepared.plan.choice.lock_hash != before.lock_hash:
        raise OutputError(
            f"{path} started with another lock ({str(before.lock_hash)[:12]}) than "
            f"{prepared.plan.choice.backend} {prepared.plan.choice.flavour} has now",
            f"Start a new run: aligntune-run -c {run.spec}, or resume it with the version of "
            "aligntune-run that started it",
        )
    return prepared


def _is_running(record: RunRecord) -> bool:
    """Whether the run's worker was started and has not ended, by its handle.

    Until the worker has begun its events, only its engine knows.
    """
    if record.handle is None or record.exit is not None:
        return False
    try:
        return find_engine(record.handle).status(record.handle) == "running"
    except EngineError:
        return False  # whether the engine can be used is judged later


def _prepare(
    settings: Settings, obtaining: Obtaining, run: RunDir, run_id: str, attempt: int
) -> Prepared:
    spec = settings.spec
    planner = _inspect(spec, obtaining, run)
    plan = Plan(
        run_id=run_id,
        run_dir=str(run.path),
        attempt=attempt,
        spec=spec,
        origins=settings.origins,
        choice=planner.outcome.require(),
        memory=memory_limit(spec.memory, planner.inspection.host.memory_usable),
        fetch=hub_ids(spec),
    )
    return Prepared(plan, planner)
