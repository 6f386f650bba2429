"""The runner of the Python API inside an image: the worker, in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from aligntune.algorithms import BACKENDS, TITLES
from aligntune.api.runner import BackendStatus, Selection
from aligntune.errors import KINDS, AligntuneError, BackendError, OutputError
from aligntune.record.run_dir import RunDir, base_model, new_run_id
from aligntune.record.schema import ErrorRecord, RunRecord
from aligntune.rewards import check
from aligntune.spec.layers import from_file
from aligntune.spec.resolve import Settings, resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.trainer_args import refuse_owned
from aligntune.tasks import TASK_FILE, Task, job
from aligntune.worker.backend import installed
from aligntune.worker.failures import Job, guarded
from aligntune.worker.main import open_events
from aligntune.worker.tasks.do import do
from aligntune.worker.train import train

WHY = "this is its image"


class InsideRunner:
    """Runs requests in this process. The trainers' output goes to the run's log."""

    def __init__(self) -> None:
        self._name = installed().NAME

    def plan(self, settings: Settings) -> dict[str, Any]:
        """See :class:`~aligntune.api.runner.Runner`."""
        spec = settings.spec
        refuse_owned(spec)
        check(spec.rewards)
        choice = self.select(spec, model=True)
        run_id = new_run_id(spec.algorithm, base_model(spec), datetime.now())
        run = RunDir(Path(spec.output) if spec.output else Path("runs", run_id).absolute())
        run.require_new()
        return {
            "spec": spec.model_dump(mode="json"),
            "plan": {
                "run_id": run_id,
                "run_dir": str(run.path),
                "origins": settings.origins,
                "choice": choice,
            },
            "commands": [],
        }

    def train(self, settings: Settings) -> RunRecord:
        """See :class:`~aligntune.api.runner.Runner`."""
        planned = self.plan(settings)
        warn(planned["plan"]["choice"]["warnings"])
        run = RunDir(Path(planned["plan"]["run_dir"]))
        run.create(planned["plan"]["run_id"], settings.spec, origins=settings.origins)
        return carry_out(train, settings.spec, run)

    def resume(self, run: Path) -> RunRecord:
        """See :class:`~aligntune.api.runner.Runner`."""
        there = RunDir(run)
        if there.record().is_finished:
            raise OutputError(f"the run {run} has finished", "Start a new run")
        return carry_out(train, resolve([from_file(there.spec)]).spec, there)

    def do(self, task: Task) -> RunRecord:
        """See :class:`~aligntune.api.runner.Runner`."""
        wanted = job(task)
        run = RunDir(wanted.new_folder())
        fetched = wanted.record.fetched
        known: dict[str, Any] = {"fetched": fetched} if fetched else {}
        run.create(run.path.name, wanted.spec, task=task.model_dump(mode="json"), **known)
        (run.path / TASK_FILE).write_text(wanted.task.model_dump_json(indent=2), "utf-8")
        return carry_out(partial(do, task=wanted.task), wanted.spec, run)

    def status(self) -> dict[str, BackendStatus]:
        """See :class:`~aligntune.api.runner.Runner`."""
        return {name: self._status(name) for name in BACKENDS}

    def _status(self, name: str) -> BackendStatus:
        here = name == self._name
        if here:
            versions = {package: _version(package) for package in ("unsloth", "trl", "torch")}
            found = [f"{package} {version}" for package, version in versions.items() if version]
            reason = f"installed: {', '.join(found)}"
        else:
            reason = f"this is the {TITLES[self._name]} image; {TITLES[name]} has another"
        verdict = {"rule": "image", "level": "pass" if here else "fail", "evidence": reason}
        return {"available": here, "reason": reason, "verdicts": [verdict]}

    def select(self, spec: RunSpec, model: bool) -> Selection:
        """See :class:`~aligntune.api.runner.Runner`."""
        warnings_ = []
        wrong = spec.backend not in ("auto", self._name)
        if wrong:
            what = (
                f"{TITLES[spec.backend]} was requested, but this is the {TITLES[self._name]} image"
            )
            if spec.strict or spec.backend == "trl":  # which is TRL always
                raise BackendError(
                    what, f"Run it in the {TITLES[spec.backend]} image, or from the host"
                )
            warnings_.append(f"{what}. Training with {TITLES[self._name]} instead")
        row = spec.row
        if self._name not in row.backends:
            raise BackendError(
                f"{row.title} does not run on {TITLES[self._name]}, and this is its image",
                "Run it in the TRL image, or from the host",
            )
        verdicts = [
            {**verdict, "backend": name}
            for name, status in self.status().items()
            for verdict in status["verdicts"]
        ]
        reason = f"{TITLES[self._name]} ({'as asked' if spec.backend == self._name else WHY})"
        return {
            "backend": self._name,
            "reason": reason,
            "warnings": warnings_,
            "verdicts": verdicts,
        }


def _version(name: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def warn(messages: list[str]) -> None:
    """Emit important messages as Python warnings."""
    for message in messages:
        warnings.warn(message, stacklevel=4)


def carry_out(work: Job, spec: RunSpec, run: RunDir) -> RunRecord:
    """Run the worker here and return its record.

    Raises:
        AligntuneError: the error that the worker recorded.
    """
    with _lent_output() as people, _own_signals(), open_events(run, people) as events:
        code = guarded(work, spec, run, events)
    record = run.record()
    if code:
        error = record.error or ErrorRecord(
            what="the worker failed without an error", remedy=f"See {run.log}"
        )
        raise KINDS.get(error.kind, AligntuneError)(error.what, error.remedy)
    return record


@contextlib.contextmanager
def _lent_output() -> Iterator[TextIO]:
    """Restore stdout and stderr afterwards; meanwhile the worker sends them to its log.

    Yields:
        where events are printed meanwhile: a notebook's stdout, else the former file 1.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(1), os.dup(2)]
    people = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    streams = sys.stdout, sys.stderr
    notebook = not _is_file(sys.stdout, 1)
    try:
        with contextlib.ExitStack() as stack:
            if notebook:  # it shows only what is written to Python's stream objects
                for number, redirect in (
                    (1, contextlib.redirect_stdout),
                    (2, contextlib.redirect_stderr),
                ):
                    log = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
                    stack.callback(log.flush)
                    stack.enter_context(redirect(log))
            yield streams[0] if notebook else people
    finally:
        for stream in streams:
            stream.flush()
        for number, before in enumerate(kept, 1):
            os.dup2(before, number)
            os.close(before)
        people.close()


def _is_file(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):
        return False


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the caller's signal handlers afterwards; meanwhile the worker sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
