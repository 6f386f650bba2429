"""Runs from before records had a version can be resumed, evaluated and asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Evaluate, Predict, job
from aligntune_run.planning import prepare
from aligntune_run.planning.planner import Obtaining

UNVERSIONED = Path(__file__).parents[1] / "record" / "unversioned"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(Path(shutil.copytree(UNVERSIONED, tmp_path / "run")))
    run.model.mkdir()
    (tmp_path / "models" / "llama").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for name in ("pairs", "held-out"):
        (tmp_path / "data" / f"{name}.jsonl").touch()
    for file in (run.record_file, run.spec):
        file.write_text(file.read_text().replace("/bench", str(tmp_path)))
    return run


def test_it_can_be_evaluated_and_asked(run: RunDir) -> None:
    asked = job(Evaluate(of=str(run.path)))
    assert asked.record.choice.lock_hash
    assert asked.spec.training.max_steps == 24
    told = job(Predict(of=str(run.path), prompts=("p",))).task
    assert isinstance(told, Predict)
    assert told.chat is False, "as its training data was"


def test_it_is_resumed_on_its_own_backend_and_engine(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run.record_file.read_text()
    run.record_file.write_text(text.replace('"status": "finished"', '"status": "stopped"'))
    asked: list[RunSpec] = []

    class AskedError(Exception):
        pass

    def inspect(spec: RunSpec, *_: Any) -> Any:
        asked.append(spec)
        raise AskedError

    monkeypatch.setattr(prepare, "inspect", inspect)
    with pytest.raises(AskedError):
        prepare.prepare_resume(run.path, Obtaining())
    assert (asked[0].backend, asked[0].engine, asked[0].strict) == ("trl", "docker", True)
    assert asked[0].dataset.name == str(run.path.parent / "data" / "pairs.jsonl")


def test_a_finished_one_is_not_resumed(run: RunDir) -> None:
    with pytest.raises(OutputError, match="is a finished run"):
        prepare.prepare_resume(run.path, Obtaining())
