"""``aligntune-train --spec FILE``: the entry point of a training image.

It needs no launcher: ``docker run IMAGE --spec FILE`` and a Kubernetes Job call it too.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TextIO

from aligntune.errors import AligntuneError, OutputError
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.spec.layers import from_file
from aligntune.spec.resolve import resolve
from aligntune.tasks import read
from aligntune.worker.failures import guarded
from aligntune.worker.inputs.fetch import fetch
from aligntune.worker.tasks.do import do
from aligntune.worker.train import train


def main(arguments: list[str] | None = None) -> int:
    """Run the worker; the exit code is the error's (see :mod:`aligntune.errors`)."""
    parser = argparse.ArgumentParser(prog="aligntune-train", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="the run's specification, YAML")
    parser.add_argument("--run-dir", type=Path, help="default: the folder of the spec")
    parser.add_argument(
        "--task", type=Path, help="run this task on a finished run (aligntune.tasks)"
    )
    parser.add_argument("--fetch", action="store_true", help="only fetch what comes from a hub")
    options = parser.parse_args(arguments)
    run = RunDir((options.run_dir or options.spec.parent).absolute())
    try:
        spec = resolve([from_file(options.spec)]).spec
        task = read(options.task) if options.task else None
        events = open_events(run)
    except AligntuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code

    if options.fetch:
        return guarded(partial(fetch, task=task), spec, run, events)
    return guarded(partial(do, task=task) if task else train, spec, run, events)


def open_events(run: RunDir, people: TextIO | None = None) -> EventWriter:
    """Open the event stream, and send all other output of the program to the log.

    Args:
        run: the run directory.
        people: where events are printed for people; None is the former stdout.

    Raises:
        OutputError: the run directory cannot be written, or another worker uses it.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        if people is None:
            people = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        events = EventWriter(run.events, people)
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise OutputError(
            f"cannot write to the run directory {run.path}: {error.strerror}",
            "Make it writable for the user of the container",
        ) from error
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    return events
