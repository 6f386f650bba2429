"""Evaluate, predict and push: planned like a training.

:func:`prepare` makes the plan; :func:`~aligntune_run.runs.execute.obtain` and
:func:`~aligntune_run.runs.execute.execute` carry it out.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from aligntune.algorithms import TITLES
from aligntune.errors import (
    AligntuneError,
    BackendError,
    DataError,
    EngineError,
    HardwareError,
    ImageError,
    ModelError,
    SpecError,
)
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.tasks import Job, Push, Task, job, repositories
from aligntune_run.host.resources import memory_limit
from aligntune_run.plan import Plan, hub_ids
from aligntune_run.planning.planner import Obtaining, Planner, Prepared, inspect
from aligntune_run.planning.preflight import require_writable


def prepare(
    task: Task,
    obtaining: Obtaining,
    gpus: str | None = None,
    engine: str | None = None,
) -> Prepared:
    """Inspect the run and the machine and decide. Nothing is changed, downloaded or written.

    Backend, engine and GPU are those of the run if they are still available, else those that would
    be chosen now, with a warning.

    Args:
        task: what to do, with which run.
        obtaining: how a missing image or venv may be obtained.
        gpus: as ``spec.gpus``, instead of the run's own.
        engine: as ``spec.engine``, instead of the run's own.

    Raises:
        AligntuneError: the run has no result, or the task cannot be done here.
    """
    wanted = job(task)
    run = RunDir(wanted.new_folder())
    before = _before(wanted)
    changes = {name: value for name, value in (("gpus", gpus), ("engine", engine)) if value}
    spec = wanted.spec.model_copy(update={**before, **changes})
    planner, warnings = _inspect(wanted, spec, set(changes), obtaining)
    require_writable(run.path)
    choice = planner.outcome.require()
    if not isinstance(task, Push):  # which needs no backend and no GPU
        warnings += choice.warnings
    plan = Plan(
        run_id=f"{wanted.record.id}-{run.path.name}" if wanted.record.id else run.path.name,
        run_dir=str(run.path),
        spec=spec,
        origins={},
        choice=replace(choice, warnings=tuple(warnings)),
        memory=memory_limit(spec.memory, planner.inspection.host.memory_usable),
        fetch=hub_ids(spec, wanted.task),
        task=wanted.task,
        inputs=(str(Path(task.of, "model")),),
        fetched=wanted.record.fetched,
    )
    _require_inputs(plan)
    return Prepared(plan, planner)


def _before(wanted: Job) -> dict[str, Any]:
    """Backend, engine and GPUs of the run; of a run started by hand, what is known."""
    choice = wanted.record.choice
    chosen = {"backend": choice.backend, "engine": choice.engine}
    same = {name: value for name, value in chosen.items() if value}
    if choice.gpus == []:
        same["gpus"] = "0"
    return {**same, "strict": "backend" in same}


def _inspect(
    wanted: Job, spec: RunSpec, said: set[str], obtaining: Obtaining
) -> tuple[Planner, list[str]]:
    """The planner for a task, and the warnings of its choice."""
    model = _loaded(wanted)
    of = wanted.task.of
    if isinstance(wanted.task, Push):
        obtaining = replace(
            obtaining, wait=True
        )  # it gets no GPU, so it does not matter who holds them
    warnings = []
    try:
        planner = inspect(spec, obtaining, model)
        choice = planner.outcome.require()
    except (BackendError, EngineError, HardwareError, ImageError) as error:
        free = {"backend": "auto", "engine": "auto", "gpus": "auto", "strict": False}
        changed = {name: value for name, value in free.items() if name not in said}
        planner = inspect(spec.model_copy(update=changed), obtaining, model)
        choice = planner.outcome.require()
        warnings.append(
            f"what trained {of} is unavailable: {error.what.removeprefix('--strict: ')}. "
            f"{TITLES[choice.backend]} is used instead"
        )
    before = wanted.record.choice
    lock = before.lock_hash
    if lock and choice.backend == before.backend and choice.lock_hash != lock:
        warnings.append(
            f"{of} was trained with another lock ({lock[:12]}) than {TITLES[choice.backend]} "
            f"{choice.flavour} has now ({choice.lock_hash[:12]}): figures may differ slightly"
        )
    return planner, warnings


def _loaded(wanted: Job) -> str | None:
    """The model whose type matters: the run's own, or the base of its adapter."""
    if isinstance(wanted.task, Push):
        return None
    if wanted.spec.adapter.type == "none":
        return str(Path(wanted.task.of, "model"))
    return wanted.spec.model.name


def _require_inputs(plan: Plan) -> None:
    """Refuse a task if an input of its run is needed again and no longer exists."""
    kinds: dict[str, type[AligntuneError]] = {
        name: DataError if kind == "dataset" else ModelError
        for kind, name, _ in repositories(plan.spec, plan.task)
        if is_local(name)
    }
    for path in plan.local_inputs:
        if not os.path.exists(path):
            raise kinds.get(path, SpecError)(
                f"{path} no longer exists, and the run needs it again", "Put it back"
            )
