"""How a run ended, why, and how to resume it, from the files it left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aligntune.errors import EngineError, OutputError, TrainingError
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import ErrorRecord, RunRecord
from aligntune_run.check import Result, Verdict, passes, warns
from aligntune_run.doctor.checks.base import RUN, EndedRun
from aligntune_run.doctor.checks.engine import ALIVE
from aligntune_run.doctor.probe import Container
from aligntune_run.known_failures.base import Symptom
from aligntune_run.known_failures.explain import explain, tail

MOST = 3
"""At most this many known failures are reported for one log; later ones are less specific."""


def report_run(path: Path, containers: Sequence[Container]) -> tuple[Verdict, ...]:
    """Report on a run.

    Args:
        path: its run directory.
        containers: our containers in the engine.

    Raises:
        OutputError: the folder has no run, or its record cannot be read.
    """
    run = RunDir(path.absolute())
    record = run.record()
    if record.is_empty:
        raise OutputError(
            f"{path} is not a run directory: it has no run.json",
            "Give the folder that a run printed as its run directory",
        )
    own = [one for one in containers if one.run_id and one.run_id == record.id]
    running = run.in_use() or any(container.state in ALIVE for container in own)
    return RUN.judge(EndedRun(run, record, own, running))


def failures(run: RunDir, record: RunRecord) -> tuple[Symptom, ...]:
    """The known failures in a run's error and log, those of the error first."""
    own = explain((record.error or ErrorRecord()).what)
    return tuple(dict.fromkeys((*own, *explain(tail(run.log)))))[:MOST]


@RUN.check("run", TrainingError)
def _end(run: EndedRun) -> Result:
    path, record, error = run.dir.path, run.record, run.record.error
    status = record.status or "unknown"
    code = f", exit code {record.exit.code}" if record.exit else ""
    if run.running:
        return passes(f"{path} is running ({status})")
    if record.is_finished:
        return passes(f"{path} is finished{code}")
    if error:
        return warns(f"{path} {status}{code}: {error.kind}: {error.what}", error.remedy)
    return warns(
        f"{path} is {status}{code}, and nothing is running in it: its worker was killed, or the "
        "machine went down",
        f"See the end of {run.dir.log}",
    )


@RUN.check("run-container", EngineError)
def _containers(run: EndedRun) -> Iterator[Result]:
    for container in run.containers:
        name, state = container.name, container.state
        if state in ALIVE:
            yield passes(f"{name} is {state}: `docker logs -f {name}` shows it")
        else:
            yield warns(f"{name} still exists ({state})", f"`docker rm -f {name}`")
    if run.running and not run.containers:
        yield passes("a process on this machine, or a container of another engine, is running it")


@RUN.check("run-log", TrainingError)
def _known_failures(run: EndedRun) -> Iterator[Result]:
    for symptom in failures(run.dir, run.record) if run.unfinished else ():
        yield warns(f"{symptom.name}: {symptom.means}", symptom.remedy)


@RUN.check("resume", OutputError)
def _resume(run: EndedRun) -> Result | None:
    """A run that this command did not plan can be started again, but not resumed."""
    if not run.unfinished:
        return None
    if run.record.task is not None:
        return warns("a task cannot be resumed", "Run it again")
    if run.record.plan is None:
        return warns("it was not started by this command", f"`aligntune-run -c {run.dir.spec}`")
    points = any(run.dir.checkpoints.glob("checkpoint-*"))
    where = "the newest checkpoint" if points else "the start, as there is no checkpoint"
    return warns(f"it can be resumed from {where}", f"`aligntune-run --resume {run.dir.path}`")
