"""``aligntune-train --spec FILE``: the entry point of a training image.

Needs no launcher: ``docker run IMAGE --spec FILE`` and a Kubernetes Job call the same thing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from aligntune.errors import AligntuneError, OutputError
from aligntune.events import EventWriter
from aligntune.rundir import RunDir
from aligntune.settings import from_file, resolve
from aligntune.training.failures import guarded
from aligntune.training.fetch import fetch
from aligntune.training.worker import train


def main(arguments: list[str] | None = None) -> int:
    """Run the worker; the exit code is the error's (see :mod:`aligntune.errors`)."""
    parser = argparse.ArgumentParser(prog="aligntune-train", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="the run's specification, YAML")
    parser.add_argument("--run-dir", type=Path, help="default: the folder of the spec")
    parser.add_argument("--fetch", action="store_true", help="only fetch what comes from a hub")
    options = parser.parse_args(arguments)
    run = RunDir((options.run_dir or options.spec.parent).absolute())
    try:
        spec = resolve([from_file(options.spec)]).spec
        events = _open_events(run)
    except AligntuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code

    return guarded(fetch if options.fetch else train, spec, run, events)


def _open_events(run: RunDir) -> EventWriter:
    """The event stream; from here on stdout is for people, and the log takes all noise."""
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        people = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        events = EventWriter(run.events, people)
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise OutputError(
            f"cannot write to the run directory {run.path}: {error.strerror}",
            "Make it writable for the user that the container runs as",
        ) from error
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    return events
