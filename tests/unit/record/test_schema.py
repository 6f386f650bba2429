"""run.json: one schema with a version; records of older versions stay readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import (
    SCHEMA_VERSION,
    ChoiceRecord,
    ErrorRecord,
    ExitRecord,
    PlanRecord,
    RunRecord,
)

UNVERSIONED = Path(__file__).parent / "unversioned"
"""A run as it was written before records had a version: TRL 1.16 trained it in Docker."""

WORDS = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=3)
CHOICES = st.builds(
    ChoiceRecord,
    backend=st.none() | WORDS,
    engine=st.none() | WORDS,
    lock_hash=st.none() | WORDS,
    gpus=st.none() | st.lists(WORDS, max_size=2),
)
RECORDS = st.builds(
    RunRecord,
    id=st.none() | WORDS,
    status=st.sampled_from(["planned", "running", "finished", "failed", "stopped"]),
    spec=OBJECTS,
    plan=st.none() | st.builds(PlanRecord, attempt=st.integers(1, 9), choice=CHOICES),
    task=st.none() | OBJECTS,
    handle=st.none() | WORDS,
    fetched=st.none() | OBJECTS,
    result=OBJECTS,
    error=st.none() | st.builds(ErrorRecord, kind=WORDS, what=WORDS, remedy=WORDS),
    exit=st.none() | st.builds(ExitRecord, code=st.integers(0, 255), oom=st.booleans()),
    later_key=JSON,
)


@given(RECORDS)
def test_a_record_goes_to_json_and_back(record: RunRecord) -> None:
    values = json.loads(json.dumps(record.to_dict()))
    assert RunRecord.from_dict(values, Path("run.json")) == record


def test_a_newer_version_is_refused_in_one_line(tmp_path: Path) -> None:
    newer = SCHEMA_VERSION + 1
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": newer, "id": 3}))
    with pytest.raises(OutputError, match=rf"version {newer}.* reads up to") as refused:
        RunDir(tmp_path).record()
    assert refused.value.remedy == "Update aligntune-run"


def test_a_key_that_this_version_does_not_know_is_kept(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.record_file.write_text('{"id": "a", "plan": {"later": 1}, "later": 2}')
    run.update(status="running")
    written = json.loads(run.record_file.read_text())
    assert written == {
        "schema_version": SCHEMA_VERSION,
        "id": "a",
        "plan": {"later": 1},
        "later": 2,
        "status": "running",
    }


def test_a_writer_cannot_invent_a_key(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a record has no stauts"):
        RunDir(tmp_path).update(stauts="running")
    assert not (tmp_path / "run.json").exists()


@pytest.fixture
def unversioned(tmp_path: Path) -> RunDir:
    return RunDir(Path(shutil.copytree(UNVERSIONED, tmp_path / "run")))


def test_an_unversioned_record_is_read_and_keeps_its_values(unversioned: RunDir) -> None:
    before: dict[str, Any] = json.loads(unversioned.record_file.read_text())
    record = unversioned.record()
    assert record.is_finished
    assert record.choice.backend == "trl"
    assert record.to_dict() == before
    assert unversioned.update(status="finished").to_dict() == {
        "schema_version": SCHEMA_VERSION,
        **before,
    }
