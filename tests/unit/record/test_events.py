"""Events: what is written is what is read, and only whole lines are."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from aligntune.record.events import PHASES, EventReader, EventWriter, describe


def test_what_is_written_is_read_in_order_with_the_time_it_was_written(tmp_path: Path) -> None:
    before = time.time()
    with EventWriter(tmp_path / "events.jsonl") as write:
        write("phase", name="train")
        write("note", message="ünïcode\nand two lines")
    first, second = EventReader(tmp_path / "events.jsonl")
    assert (first["event"], first["name"]) == ("phase", "train")
    assert second["message"] == "ünïcode\nand two lines"
    assert before - 0.001 <= first["time"] <= second["time"] <= time.time() + 0.001


def test_a_reader_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    read = EventReader(path)
    assert list(read) == [], "the file need not be there yet"
    with EventWriter(path) as write:
        write("phase", name="train")
        assert [event["name"] for event in read] == ["train"], "at once, not when it is closed"
        assert list(read) == []
        write("phase", name="save")
        assert [event["name"] for event in read] == ["save"]


def test_a_half_written_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    whole = json.dumps({"event": "note", "message": "é"}, ensure_ascii=False).encode() + b"\n"
    read = EventReader(path)
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(read) == []
    path.write_bytes(whole)
    assert [event["message"] for event in read] == ["é"]


def test_a_resumed_run_does_not_tell_the_first_try_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as write:
        write("error", kind="StoppedError", what="stopped", remedy="")
    read = EventReader(path, skip=True)
    with EventWriter(path) as write:
        write("phase", name="start")
    assert [event["event"] for event in read] == ["phase"]


def test_half_a_line_that_a_killed_worker_left_is_gone_when_the_next_one_begins(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as write:
        write("phase", name="train")
    with path.open("a") as file:
        file.write('{"event": "st')
    read = EventReader(path, skip=True)
    with EventWriter(path) as write:
        write("phase", name="save")
    assert [event["name"] for event in read] == ["save"]
    assert [event["name"] for event in EventReader(path)] == ["train", "save"]


def test_events_are_strict_json(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.jsonl") as write:
        with pytest.raises(ValueError, match="JSON compliant"):
            write("note", message="", loss=float("nan"))
        write("note", message="after")
    assert [event["event"] for event in EventReader(tmp_path / "events.jsonl")] == ["note"]


def test_a_writer_tells_what_it_writes_in_words(tmp_path: Path) -> None:
    said = io.StringIO()
    with EventWriter(tmp_path / "events.jsonl", said) as write:
        write("warning", message="mind the gap")
        write("end", status="finished", result={})
    assert said.getvalue() == "WARNING: mind the gap\n"


STEP = {"event": "step", "step": 2, "max_steps": 8, "epoch": 0.25, "tokens": 10}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "phase", "name": "load_model"}, "load model ..."),
        (
            {"event": "data", "part": "train", "rows": 3, "format": "chat", "source": "a.jsonl"},
            "train: 3 rows, chat (a.jsonl)",
        ),
        (
            {"event": "start", "max_steps": 4, "epochs": 1, "parameters": 2000, "trainable": 500},
            "training 500 of 2,000 parameters (25.00 %), 4 steps",
        ),
        (
            {**STEP, "loss": 1.23456, "tokens_per_second": 1234.5},
            "step 2/8  loss 1.2346  1,234 token/s",
        ),
        ({**STEP, "tokens_per_second": None}, ""),
        ({"event": "evaluate", "step": 8, "loss": 2.5}, "evaluation at step 8: loss 2.5000"),
        ({"event": "save", "step": 8, "path": "checkpoints/8"}, "checkpoint: checkpoints/8"),
        ({"event": "error", "kind": "DataError", "what": "no", "remedy": "do"}, "error: no. do"),
        ({"event": "error", "kind": "DataError", "what": "no", "remedy": ""}, "error: no"),
        ({"event": "end", "status": "finished", "result": {}}, ""),
    ],
)
def test_an_event_in_words(event: dict[str, Any], line: str) -> None:
    assert describe(event) == line


def test_a_step_whose_speed_is_not_known_yet_does_not_claim_to_be_at_zero() -> None:
    assert describe({**STEP, "loss": 1.0, "tokens_per_second": None}) == "step 2/8  loss 1.0000"


def test_every_phase_has_a_line() -> None:
    lines = [describe({"event": "phase", "name": name}) for name in PHASES]
    assert all(lines)
    assert len(set(lines)) == len(PHASES)
