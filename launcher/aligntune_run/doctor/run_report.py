"""How a run ended, why, and how to resume it, from the files it left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import ErrorRecord, RunRecord
from aligntune_run.doctor.checks.base import good, warn
from aligntune_run.doctor.checks.engine import ALIVE
from aligntune_run.doctor.probe import Container
from aligntune_run.known_failures.base import Symptom
from aligntune_run.known_failures.explain import explain, tail
from aligntune_run.plan import Verdict

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
        raise OutputError(f"{path} is not a run directory: it has no run.json")
    own = [one for one in containers if one.run_id and one.run_id == record.id]
    running = run.in_use() or any(one.state in ALIVE for one in own)
    verdicts = [
        *_named("run", _end(run, record, running)),
        *_named("run-container", _containers(own, running)),
    ]
    if not record.is_finished and not running:
        verdicts += _named("run-log", map(_failure_verdict, failures(run, record)))
        verdicts += _named("resume", _resume(run, record))
    return tuple(verdicts)


def failures(run: RunDir, record: RunRecord) -> tuple[Symptom, ...]:
    """The known failures in a run's error and log, those of the error first."""
    own = explain((record.error or ErrorRecord()).what)
    return tuple(dict.fromkeys((*own, *explain(tail(run.log)))))[:MOST]


def _end(run: RunDir, record: RunRecord, running: bool) -> Iterator[Verdict]:
    status = record.status or "unknown"
    code = f", exit code {record.exit.code}" if record.exit else ""
    error = record.error
    if running:
        yield good(f"{run.path} is running ({status})")
    elif record.is_finished:
        yield good(f"{run.path} is finished{code}")
    elif error:
        yield warn(f"{run.path} {status}{code}: {error.kind}: {error.what}", error.remedy)
    else:
        yield warn(
            f"{run.path} is {status}{code}, and nothing is running in it: its worker was killed, "
            "or the machine went down",
            f"See the end of {run.log}",
        )


def _containers(own: Sequence[Container], running: bool) -> Iterator[Verdict]:
    for one in own:
        if one.state in ALIVE:
            yield good(f"{one.name} is {one.state}: `docker logs -f {one.name}` shows it")
        else:
            yield warn(f"{one.name} still exists ({one.state})", f"`docker rm -f {one.name}`")
    if running and not own:
        yield good("a process on this machine, or a container of another engine, is running it")


def _failure_verdict(symptom: Symptom) -> Verdict:
    return warn(f"{symptom.name}: {symptom.means}", symptom.remedy)


def _resume(run: RunDir, record: RunRecord) -> Iterator[Verdict]:
    """A run that this command did not plan can be started again, but not resumed."""
    points = sorted(run.checkpoints.glob("checkpoint-*"))
    if record.task is not None:
        yield warn("a task cannot be resumed", "Run it again")
    elif record.plan is not None:
        where = "the newest checkpoint" if points else "the start, as there is no checkpoint"
        yield warn(f"it can be resumed from {where}", f"`aligntune-run --resume {run.path}`")
    else:
        yield warn("it was not started by this command", f"`aligntune-run -c {run.spec}`")


def _named(rule: str, verdicts: Iterable[Verdict]) -> list[Verdict]:
    return [replace(verdict, rule=rule) for verdict in verdicts]
