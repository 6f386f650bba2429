"""A run whose launcher is killed: another process follows it to its end by the recorded handle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.detached import WORKER, killed_launcher
from tests.helpers.hosts import make_host
from tests.helpers.scripted_engine import prepared

from aligntune.errors import EngineError, OutputError, StoppedError, TrainingError
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import ExitRecord
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.planning.planner import Obtaining
from aligntune_run.planning.prepare import prepare_resume
from aligntune_run.runs.execute import attach

LAUNCHER = """
import os, sys
from pathlib import Path
from aligntune_run.engines.base import Command
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.runs.execute import execute
from tests.helpers.hosts import make_host
from tests.helpers.scripted_engine import prepared

class Engine(ProcessEngine):
    def commands(self, plan):
        command = [sys.executable, "-c", sys.argv[2], plan.run_dir]
        values = {"environment": {}, "without": [], "working_dir": plan.run_dir}
        return [Command("train", {"command": command, **values})]

folder = Path(sys.argv[1])
made = prepared(folder)
made.planner.given = Engine(make_host(folder.parent), os.environ)
execute(made, lambda event: None)
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    """A run that is at work, and whose launcher was killed."""
    with killed_launcher(LAUNCHER, str(tmp_path / "run"), WORKER, run=tmp_path / "run"):
        yield RunDir(tmp_path / "run")


@pytest.fixture
def engine(tmp_path: Path) -> ProcessEngine:
    return ProcessEngine(make_host(tmp_path))


def test_another_process_follows_it_to_its_end_and_records_the_exit(
    run: RunDir, engine: ProcessEngine
) -> None:
    before = run.record()
    assert (before.status, before.phase, before.exit) == ("running", "train", None)
    assert before.handle is not None
    assert engine.status(before.handle) == "running"
    (run.path / "enough").touch()
    seen: list[str] = []
    record = attach(run, engine, lambda event: seen.append(event["event"]))
    assert seen == ["phase", "end"]
    assert record == run.record()
    assert (record.status, record.exit) == ("finished", ExitRecord(code=0, oom=False))
    assert record.result == {"steps": 3}
    assert not (run.path / ".worker").exists()
    assert attach(run, engine, print) == record, "a second time there is nothing to follow"


def test_it_can_be_stopped(run: RunDir, engine: ProcessEngine) -> None:
    engine.stop(run.record().handle or "")
    with pytest.raises(StoppedError, match="stopped at step 3") as stopped:
        attach(run, engine, lambda event: None)
    assert stopped.value.exit_code == 75
    record = run.record()
    assert (record.status, record.exit) == ("stopped", ExitRecord(code=75, oom=False))


def test_it_is_explained_if_it_was_killed_meanwhile(run: RunDir, engine: ProcessEngine) -> None:
    os.kill(engine.attach(run.record().handle or "").pid, signal.SIGSEGV)
    with pytest.raises(TrainingError, match="SIGSEGV"):
        attach(run, engine, lambda event: None)
    record = run.record()
    assert record.status == "failed"
    assert record.exit == ExitRecord(code=139, oom=False)


def test_a_run_without_a_worker_is_not_attached_to(tmp_path: Path, engine: ProcessEngine) -> None:
    plan = prepared(tmp_path / "run").plan
    run = RunDir(tmp_path / "run")
    run.create("id", plan.spec, plan=plan.to_dict())
    with pytest.raises(OutputError, match="its run never started"):
        attach(run, engine, print)
    run.update(handle="docker:c", phase="train")
    with pytest.raises(EngineError, match="does not name a process"):
        attach(run, engine, print)


def test_if_the_launcher_was_killed_while_fetching_the_run_can_be_resumed(
    run: RunDir, engine: ProcessEngine
) -> None:
    plan = run.record().to_dict()["plan"]
    run.update(phase="fetch", plan={**plan, "fetch": ["model m"]}, fetched={"datasets": {}})
    (run.path / "enough").touch()
    with pytest.raises(StoppedError, match="killed during fetch") as stopped:
        attach(run, engine, lambda event: None)
    assert f"--resume {run.path}" in stopped.value.remedy


def test_a_run_whose_worker_has_only_just_started_is_not_resumed(run: RunDir) -> None:
    run.events.unlink()  # as before the worker has opened it
    with pytest.raises(OutputError, match="is a run that is at work"):
        prepare_resume(run.path, Obtaining())
    (run.path / "enough").touch()
