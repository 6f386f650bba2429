"""A launcher of its own process that is killed, and a worker that goes on without it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

WORKER = """
import json, os, pathlib, signal, sys, time
from aligntune.errors import StoppedError
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir

run = RunDir(pathlib.Path(sys.argv[1]))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
with EventWriter(run.events) as events:
    run.update(status="running")
    events("phase", name="train")
    print("at work", flush=True)
    while not (run.path / "enough").exists() and not stopped:
        time.sleep(0.02)
    if stopped:
        error = {"kind": "StoppedError", "what": "stopped at step 3", "remedy": "Resume"}
        events("error", **error)
        run.update(status="stopped", error=error)
        sys.exit(75)
    run.update(status="finished", result={"steps": 3})
    events("end", status="finished", result={})
"""
"""Works until the file ``enough`` is there, and then finishes; asked to stop, it stops."""


@contextlib.contextmanager
def killed_launcher(code: str, *words: str, run: Path) -> Iterator[None]:
    """Run a launcher, and kill it as soon as the worker has told its first event."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    launcher = subprocess.Popen([sys.executable, "-c", code, *words], env=environment)
    events = run / "events.jsonl"
    until = time.monotonic() + 300
    try:
        while not (events.exists() and events.read_text()):
            assert launcher.poll() is None, "the launcher ended"
            assert time.monotonic() < until, "the worker does not begin"
            time.sleep(0.02)
    finally:
        launcher.kill()
        launcher.wait()
    try:
        yield
    finally:
        (run / "enough").touch()
