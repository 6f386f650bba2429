"""Columns for rewards: one kind of value per column, or the row and the column by name."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aligntune.algorithms import ALGORITHMS
from aligntune.data.rows import canonicalise
from aligntune.data.sources import Source, read_rows
from aligntune.errors import DataError
from aligntune.spec.sections import DatasetSpec


def columns(folder: Path, *values: Any) -> list[Any]:
    """The column ``answer`` of the canonical rows that have these values there."""
    path = folder / "a.jsonl"
    rows = ({"prompt": "a", "answer": value} for value in values)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DatasetSpec(name=str(path))
    with closing(read_rows(Source("a.jsonl", path), "train")) as found:
        _, made = canonicalise(found, spec, ALGORITHMS["grpo"].formats, chat=True)
        return [row["answer"] for row in made]


@pytest.mark.parametrize(
    "values",
    [
        (1, 2.5, None, 3),
        ("a", None, ""),
        ([1], [], [2, 3], None),
        ({"x": 1, "y": None}, {"x": 2, "y": "b"}, None),
        ({}, {}),
        (True, False),
    ],
)
def test_values_of_one_kind_stay_as_they_are(values: tuple[Any, ...], tmp_path: Path) -> None:
    assert columns(tmp_path, *values) == list(values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((1, 2, "one"), "line 3: column 'answer' is text, but a number in a.jsonl, line 1"),
        ((None, 1, True), "line 3: column 'answer' is true or false, but a number in a.jsonl, li"),
        ((["a"], [], ["b", 3]), "line 3: column 'answer[]' is a number, but text in a.jsonl, "),
        (([1], 1), "line 2: column 'answer' is a number, but a list in a.jsonl, line 1"),
        (({"x": 1}, {"x": "a"}), "line 2: column 'answer.x' is text, but a number in"),
        (
            ({"x": 1}, {"y": 2}),
            "line 2: column 'answer' is an object with the keys y, but an object with the keys x",
        ),
        (({"x": 1}, {}), "line 2: column 'answer' is an object without keys, but an object with"),
        ((1, 2**70), "line 2: column 'answer' is a whole number of more than 64 bits"),
    ],
)
def test_a_value_of_another_kind_is_named_with_both_rows_and_its_column(
    values: tuple[Any, ...], says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as refused:
        columns(tmp_path, *values)
    assert says in str(refused.value)


def test_tools_may_differ_by_row(tmp_path: Path) -> None:
    tools = [{"name": name, "parameters": {name: 1}} for name in ("add", "ask")]
    path = tmp_path / "a.jsonl"
    prompt = [{"role": "user", "content": "a"}]
    lines = (json.dumps({"prompt": prompt, "tools": [tool]}) for tool in tools)
    path.write_text("\n".join(lines))
    formats = ALGORITHMS["grpo"].formats
    with closing(read_rows(Source("a.jsonl", path), "train")) as found:
        _, rows = canonicalise(found, DatasetSpec(name=str(path)), formats, chat=True)
        assert [row["tools"][0]["function"] for row in rows] == tools


@pytest.mark.parametrize("name", ["image", "images"])
def test_columns_that_the_trainer_reads_as_pictures_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "a", name: "cat.png"}) + "\n")
    formats = ALGORITHMS["grpo"].formats
    says = f"the column name {name!r} has a meaning for the trainer"
    with (
        closing(read_rows(Source("a.jsonl", path), "train")) as found,
        pytest.raises(DataError, match=says),
    ):
        list(canonicalise(found, DatasetSpec(name=str(path)), formats, chat=True)[1])
