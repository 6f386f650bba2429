"""Run a task on a finished run: evaluate, predict, or push to a hub."""

from __future__ import annotations

from typing import Any

from aligntune.errors import AligntuneError
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Evaluate, Push, Task, fitting_remedy, spec_for
from aligntune.worker.backend import Backend, installed
from aligntune.worker.device import Device, find_device
from aligntune.worker.inputs.fetch import fetch_missing
from aligntune.worker.result import Clock, machine, record_code, stack_versions
from aligntune.worker.stop_signal import StopSignal
from aligntune.worker.tasks.evaluate import evaluate
from aligntune.worker.tasks.predict import predict
from aligntune.worker.tasks.push import push
from aligntune.worker.tasks.saved import load_saved


def do(spec: RunSpec, run: RunDir, events: EventWriter, task: Task) -> None:
    """Run ``task`` and write its result to the record of ``run``.

    Args:
        spec: the spec of the finished run.
        run: the task's folder.
        events: the event stream.
        task: the task.

    Raises:
        AligntuneError: anything expected, by class.
    """
    try:
        _do(spec, run, events, task)
    except AligntuneError as error:
        error.remedy = fitting_remedy(task, error)
        raise


def _do(spec: RunSpec, run: RunDir, events: EventWriter, task: Task) -> None:
    StopSignal("the task was done")
    spec = spec_for(spec, task)
    clock = Clock(events)
    run.update(status="running")
    record_code(run, events)
    if isinstance(task, Push):
        with clock.phase("push"):
            result: dict[str, Any] = push(task, events)
    else:
        backend, device = _start(spec, run, events, clock)
        fetch_missing(spec, run, events, task)
        with clock.phase("load_model"):
            saved = load_saved(spec, run, task, backend, device)
        with clock.phase(task.kind):
            result = (
                evaluate(saved, spec, run, events, task)
                if isinstance(task, Evaluate)
                else predict(saved, spec, task, lambda message: events("note", message=message))
            )
        result |= {"backend": backend.NAME, "precision": device.precision}
        run.update(machine=machine(device))
    seconds = {name: round(spent, 3) for name, spent in clock.seconds.items()}
    result |= {"versions": stack_versions(), "seconds": seconds}
    run.update(status="finished", result=result)
    events("end", status="finished", result=result)


def _start(spec: RunSpec, run: RunDir, events: EventWriter, clock: Clock) -> tuple[Backend, Device]:
    with clock.phase("import"):
        backend = installed()
        backend.prepare()
        import datasets
        import transformers

        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        device = find_device(spec, run)
        events("note", message=f"computing on the {device.name}")
    return backend, device
