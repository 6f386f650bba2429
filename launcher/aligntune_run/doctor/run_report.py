"""What became of a run, from what it left: how it ended, why, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
"""So many known failures are told of one log; what comes later tells less."""


def past(path: Path, containers: Sequence[Container]) -> tuple[Verdict, ...]:
    """What there is to say of a run.

    Args:
        path: its run directory.
        containers: those of ours that the engine has.

    Raises:
        OutputError: there is no run in that folder, or its record cannot be read.
    """
    run = RunDir(path.absolute())
    record = run.record()
    if record.is_empty:
        raise OutputError(f"{path} is not a run directory: it has no run.json")
    own = [one for one in containers if one.run_id and one.run_id == record.id]
    at_work = run.in_use() or any(one.state in ALIVE for one in own)
    said = [
        *_named("run", _end(run, record, at_work)),
        *_named("run-container", _containers(own, at_work)),
    ]
    if not record.is_finished and not at_work:
        said += _named("run-log", map(_told, failures(run, record)))
        said += _named("go-on", _go_on(run, record))
    return tuple(said)


def failures(run: RunDir, record: RunRecord) -> tuple[Symptom, ...]:
    """The known failures that a run's error and log show, the error's first."""
    own = explain((record.error or ErrorRecord()).what)
    return tuple(dict.fromkeys((*own, *explain(tail(run.log)))))[:MOST]


def _end(run: RunDir, record: RunRecord, at_work: bool) -> Iterator[Verdict]:
    status = record.status or "unknown"
    code = f", exit code {record.exit.code}" if record.exit else ""
    error = record.error
    if at_work:
        yield good(f"{run.path} is at work ({status})")
    elif record.is_finished:
        yield good(f"{run.path} has finished{code}")
    elif error:
        yield warn(f"{run.path} {status}{code}: {error.kind}: {error.what}", error.remedy)
    else:
        yield warn(
            f"{run.path} is {status}{code}, and nothing is at work in it: its worker was killed, "
            "or the machine went down",
            f"See the end of {run.log}",
        )


def _containers(own: Sequence[Container], at_work: bool) -> Iterator[Verdict]:
    for one in own:
        if one.state in ALIVE:
            yield good(f"{one.name} is {one.state}: `docker logs -f {one.name}` shows it")
        else:
            yield warn(f"{one.name} is still there ({one.state})", f"`docker rm -f {one.name}`")
    if at_work and not own:
        yield good("a process of this machine, or a container of another engine, is at work in it")


def _told(symptom: Symptom) -> Verdict:
    return warn(f"{symptom.name}: {symptom.means}", symptom.remedy)


def _go_on(run: RunDir, record: RunRecord) -> Iterator[Verdict]:
    """A run that was never planned by this command can be run again, and not gone on with."""
    points = sorted(run.checkpoints.glob("checkpoint-*"))
    if record.task is not None:
        yield warn("a task is not gone on with", "Do it again")
    elif record.plan is not None:
        where = "the newest checkpoint" if points else "the start, as there is no checkpoint"
        yield warn(f"it goes on from {where}", f"`aligntune-run --resume {run.path}`")
    else:
        yield warn("it was not started by this command", f"`aligntune-run -c {run.spec}`")


def _named(rule: str, said: Any) -> list[Verdict]:
    return [replace(one, rule=rule) for one in said]
