"""Which code worked on a run: what the record says, and what a resumed run says about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aligntune.record.code_hash import code_hash
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.worker import result
from aligntune_run.images import recipe
from aligntune_run.images.code import lay_out_code


def record(run: RunDir, version: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record a version of the code as a worker does when it starts; the notes it writes."""
    monkeypatch.setattr(result, "installed_code", lambda: version)
    run.events.unlink(missing_ok=True)
    with EventWriter(run.events) as events:
        result.record_code(run, events)
    return [json.loads(line)["message"] for line in run.events.read_text().splitlines()]


def test_the_record_lists_the_versions_that_worked_and_a_note_says_when_they_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    first, second = "a" * 64, "b" * 64
    assert record(run, first, monkeypatch) == []
    assert record(run, first, monkeypatch) == []
    assert run.record().code == [first]
    (note,) = record(run, second, monkeypatch)
    assert (
        note == f"this run began with version {'a' * 12} of the code and continues with {'b' * 12}"
    )
    assert record(run, first, monkeypatch) == []
    assert run.record().code == [first, second, first]


def test_the_code_that_is_laid_out_has_the_hash_of_the_recipe(tmp_path: Path) -> None:
    made = recipe("trl", "cpu")
    folder = lay_out_code(made, tmp_path)
    (folder / "aligntune" / "__pycache__").mkdir()
    (folder / "aligntune" / "__pycache__" / "x.pyc").touch()
    assert code_hash(folder / "aligntune", folder / "aligntune_backend.py") == made.code_hash
    assert lay_out_code(made, tmp_path) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_every_file_and_its_name_change_the_hash(tmp_path: Path) -> None:
    package, backend = tmp_path / "aligntune", tmp_path / "aligntune_backend.py"
    (package / "record").mkdir(parents=True)
    (package / "record" / "x.py").write_text("1")
    backend.write_text("2")
    seen = {code_hash(package, backend)}
    (package / "record" / "x.py").write_text("3")
    seen.add(code_hash(package, backend))
    (package / "record" / "x.py").rename(package / "record" / "y.py")
    seen.add(code_hash(package, backend))
    backend.write_text("4")
    seen.add(code_hash(package, backend))
    assert len(seen) == 4
