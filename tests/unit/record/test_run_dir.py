"""The run directory: nothing is written over, and the record is never half there."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path

import pytest

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir, new_run_id
from aligntune.record.schema import SCHEMA_VERSION

NOW = datetime(2026, 11, 23, 16, 5, 9)


def test_a_record_is_updated_key_by_key(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.record().is_empty
    run.update(id="a", status="planned")
    run.update(status="running")
    written = {"schema_version": SCHEMA_VERSION, "id": "a", "status": "running"}
    assert run.record().to_dict() == written
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"], "nothing left beside it"


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.update(status="running")
    (tmp_path / "run.json.part").mkdir()
    with pytest.raises(OSError, match=r"run\.json\.part"):
        run.update(status="finished")
    assert run.record().status == "running"


@pytest.mark.parametrize("text", ["{", "[]", "3", "\udcff"])
def test_what_is_not_a_record_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(OutputError, match=re.escape(str(tmp_path / "run.json"))):
        RunDir(tmp_path).record()


def test_a_new_folder_and_an_empty_one_can_be_used(tmp_path: Path) -> None:
    RunDir(tmp_path).require_new()
    RunDir(tmp_path / "new" / "folder").require_new()


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    RunDir(tmp_path).update(status="finished")
    with pytest.raises(OutputError, match=r"already holds a run \(finished\).*--output"):
        RunDir(tmp_path).require_new()


def test_neither_are_other_files_nor_a_link_to_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(OutputError, match="is not empty"):
        RunDir(folder).require_new()
    with pytest.raises(OutputError, match="is not a folder"):
        RunDir(folder / "thesis.tex").require_new()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OutputError, match="is not a folder"):
        RunDir(tmp_path / "link").require_new()


@pytest.mark.usefixtures("closed", "ordinary_user")
def test_a_folder_that_may_not_be_looked_into_is_left_to_whoever_writes(closed: Path) -> None:
    with pytest.raises(PermissionError):
        os.stat(closed / "run")
    RunDir(closed / "run").require_new()


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("meta-llama/Llama-3.2-1B", "Llama-3.2-1B"),
        ("/home/me/my model (v2)/", "my-model-v2"),
        ("gpt2", "gpt2"),
        ("/", "model"),
        ("..", "model"),
        ("x" * 99, "x" * 40),
    ],
)
def test_a_run_id_says_when_how_and_what(model: str, shown: str) -> None:
    found = new_run_id("sft", model, NOW)
    assert re.fullmatch(rf"20261123-160509-sft-{re.escape(shown)}-[0-9a-f]{{6}}", found)


def test_the_same_command_twice_in_a_second_gets_two_folders() -> None:
    assert new_run_id("sft", "gpt2", NOW) != new_run_id("sft", "gpt2", NOW)


def test_a_record_is_readable_json_with_its_unicode(tmp_path: Path) -> None:
    RunDir(tmp_path).update(inputs={"model": "modèle", "path": Path("/x")})
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert "modèle" in text
    assert json.loads(text)["inputs"]["path"] == "/x"
