"""The run directory: nothing is written over, and the record is never half there."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir, base_model, new_run_id, parent_of
from aligntune.record.schema import SCHEMA_VERSION
from aligntune.spec.layers import Layer
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec

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


def line(folder: Path, **values: Any) -> RunSpec:
    """The spec of a run in ``folder``, which has finished."""
    spec = resolve([Layer("test", {"algorithm": "sft", "dataset": "d", **values})], folder).spec
    run = RunDir(folder)
    run.create(f"20261123-160509-x-{folder.name}", spec)
    run.model.mkdir()
    return spec


def test_a_run_names_its_parent_and_the_model_that_their_line_began_with(tmp_path: Path) -> None:
    assert parent_of(line(tmp_path / "aaaaaa", model="org/base")) is None
    second = line(tmp_path / "bbbbbb", model=str(tmp_path / "aaaaaa"))
    third = line(tmp_path / "cccccc", model=str(tmp_path / "bbbbbb"), algorithm="dpo")
    for spec, parent in ((second, "aaaaaa"), (third, "bbbbbb")):
        found = parent_of(spec)
        assert found is not None
        assert (found.short_id, found.base, found.algorithm) == (parent, "org/base", "sft")
        assert found.run_dir == str(tmp_path / parent)
        assert base_model(spec) == "org/base"
    assert RunDir(tmp_path / "cccccc").record().parent == parent_of(third)


def test_the_parent_of_a_run_that_continues_an_adapter_is_the_adapter_s(tmp_path: Path) -> None:
    line(tmp_path / "aaaaaa", model="org/base", adapter={"rank": 4})
    base = {"base_model_name_or_path": "org/base"}
    (tmp_path / "aaaaaa/model/adapter_config.json").write_text(json.dumps(base))
    spec = line(tmp_path / "bbbbbb", model=str(tmp_path / "aaaaaa"))
    assert spec.model.name == "org/base"
    found = parent_of(spec)
    assert found is not None
    assert (found.short_id, found.base) == ("aaaaaa", "org/base")


def test_a_model_that_no_run_made_has_no_parent(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    spec = line(tmp_path / "run", model=str(tmp_path / "model"))
    assert parent_of(spec) is None
    assert base_model(spec) == str(tmp_path / "model")


def test_the_same_command_twice_in_a_second_gets_two_folders() -> None:
    assert new_run_id("sft", "gpt2", NOW) != new_run_id("sft", "gpt2", NOW)


def test_a_record_is_readable_json_with_its_unicode(tmp_path: Path) -> None:
    RunDir(tmp_path).update(inputs={"model": "modèle", "path": Path("/x")})
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert "modèle" in text
    assert json.loads(text)["inputs"]["path"] == "/x"
