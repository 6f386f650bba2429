"""The first rows of data: read before a run, as the worker will read them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.data import files
from aligntune.data.files import find_files
from aligntune.data.preview import SAMPLE_CHARACTERS, SAMPLE_ROWS, Sample, look_at
from aligntune.data.rows import canonicalise, no_rows
from aligntune.data.sources import Source, read_rows
from aligntune.errors import DataError
from aligntune.spec.run_spec import DatasetSpec

SFT = ("chat", "prompt_completion", "instruction", "text")
GOOD = {"prompt": "a", "completion": "b"}
COLUMNS = ("prompt", "completion")


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def seen(path: Path, split: str = "train", **values: Any) -> Sample:
    spec = DatasetSpec(name=str(path), **values)
    return look_at(Source(str(path), path=path), split, spec, SFT)


def refused(path: Path, says: str, split: str = "train", **values: Any) -> None:
    with pytest.raises(DataError) as caught:
        seen(path, split, **values)
    assert says in caught.value.what


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", lines(*[GOOD] * 100)),
        ("a.json", json.dumps([GOOD] * 100)),
        ("a.json", lines(*[GOOD] * 100)),
        ("a.csv", "prompt,completion\n" + "a,b\n" * 100),
    ],
)
def test_the_first_rows_of_a_file_tell_its_format(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert seen(tmp_path / name) == Sample(SAMPLE_ROWS, "prompt_completion", COLUMNS)
    assert seen(tmp_path, "train[:5]") == Sample(SAMPLE_ROWS, "prompt_completion", COLUMNS)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"prompt": "a"\n', "a.jsonl, line 1: not valid JSON"),
        ("a.jsonl", lines(GOOD, {"text": "a"}), "a.jsonl, line 2: no column 'prompt'"),
        ("a.jsonl", "", "has no rows in split 'train'"),
        ("a.jsonl", lines({"x": 1}), "columns x match no known format"),
        ("a.jsonl", lines({"prompt": "a", "chosen": "b", "rejected": "c"}), "preference data"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", json.dumps(GOOD, indent=1), "is one JSON object"),
        (
            "a.csv",
            "prompt,completion\na\n",
            "a.csv, line 2: the number of fields differs from the number of columns",
        ),
        ("a.csv", 'prompt,completion\n"a,b\n', "not valid CSV"),
        ("a.txt", "a", ".txt is not a known format"),
        ("a.parquet", "PAR1 is not all of it", "a.parquet is not a valid Parquet file"),
    ],
)
def test_bad_rows_are_told_as_the_worker_tells_them(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_text(text)
    refused(tmp_path / name, says)


def test_text_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD).encode() + b'{"prompt": "\xff", "completion": ""}\n')
    refused(path, "a.jsonl, line 2: not UTF-8 text")


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"question": "a", "answer": "b"}))
    names = {"prompt": "question", "completion": "answer"}
    assert seen(path, columns=names) == Sample(1, "prompt_completion", COLUMNS)
    refused(path, "did you mean 'answer'?", columns=names | {"completion": "anwser"})


def test_a_folder_has_splits(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(lines(GOOD))
    (tmp_path / "test.jsonl").write_text(lines({"text": "a"}))
    assert seen(tmp_path).format == "prompt_completion"
    assert seen(tmp_path, "test").format == "text"
    refused(tmp_path, "has no split 'dev'", "dev")


def test_a_folder_of_very_many_files_is_not_gone_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_ENTRIES", 20)
    (tmp_path / "a.jsonl").write_text(lines(GOOD))
    for number in range(6):
        (tmp_path / "x" / str(number)).mkdir(parents=True)
    assert seen(tmp_path).rows == 1
    for number in range(20):
        (tmp_path / "x" / str(number) / "y").mkdir(parents=True)
    refused(tmp_path, "contains more than 20 files and folders")


def test_of_a_folder_what_is_hidden_is_not_read_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b.jsonl").write_text(lines(GOOD))
    (tmp_path / ".git").mkdir()
    for name in (".git/c.jsonl", ".d.jsonl"):
        (tmp_path / name).write_text("{")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    found = find_files(tmp_path, "x", "train")
    assert found is not None
    assert found.read == [(tmp_path / "deep" / "er" / "b.jsonl", "deep/er/b.jsonl")]
    assert found.left_out == "2 hidden (.d.jsonl, .git)"


def test_text_of_a_stranger_is_printable_and_short_in_what_is_said(tmp_path: Path) -> None:
    nasty = "\x1b[2J" + "x" * 5000
    path = tmp_path / "a.jsonl"
    saved_set = saved(tmp_path / "saved", GOOD)
    state = {"_data_files": [{"filename": nasty}]}
    (saved_set / "state.json").write_text(json.dumps(state))
    for where, text, values in (
        (path, lines({nasty: "a"}), {}),
        (path, lines({nasty: "a"}), {"format": "text"}),
        (path, lines({nasty: "a"}), {"columns": {"text": "y"}}),
        (tmp_path / "\x1b.jsonl", "{", {}),
        (saved_set, None, {}),
    ):
        if text is not None:
            where.write_text(text)
        with pytest.raises(DataError) as caught:
            seen(where if where.is_dir() or where == path else tmp_path, **values)
        assert caught.value.what.replace(str(tmp_path), "").isprintable()
        assert "\\x1b" in caught.value.what
        assert len(caught.value.what) < 700
        path.unlink(missing_ok=True)


def test_what_is_not_there_is_said_so(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.jsonl", "no such dataset")


def test_a_parquet_file_is_known_by_both_its_ends_and_left_to_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    assert seen(path) == Sample(0, None)
    path.write_bytes(b"PAR1" + b"\0" * 100)
    refused(path, "not a valid Parquet file")


def saved(folder: Path, columns: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "data-00000-of-00001.arrow").touch()
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": columns}))
    return folder


def test_a_saved_dataset_tells_its_columns_and_whether_it_is_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path / "one", GOOD)
    assert seen(folder) == Sample(0, "prompt_completion", COLUMNS)
    refused(saved(tmp_path / "other", {"x": {}}), "columns x match no known format")
    (folder / "data-00000-of-00001.arrow").unlink()
    refused(folder, "data-00000-of-00001.arrow is missing")
    (folder / "state.json").unlink()
    refused(folder, "is an incomplete saved dataset: state.json is missing")


def test_a_saved_dataset_has_splits(tmp_path: Path) -> None:
    saved(tmp_path / "all" / "train", GOOD)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert seen(tmp_path / "all") == Sample(0, "prompt_completion", COLUMNS)
    refused(tmp_path / "all", "has no split 'test'; splits: train", "test")


@pytest.mark.parametrize("text", ["[", "[]", "[" * 100_000, "\x00", "9" * 5000])
@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_a_saved_dataset_of_a_stranger_is_one_clear_line(
    tmp_path: Path, name: str, text: str
) -> None:
    (saved(tmp_path / "one", GOOD) / name).write_text(text)
    refused(tmp_path / "one", f"is an incomplete saved dataset: {name}")


@pytest.mark.parametrize(
    "start",
    [b"", lines(GOOD).encode(), b'{"prompt": "', b"[", b'[{"text": "a"}', b"\n\n", b'text\n"'],
    ids=["zeros", "a row", "half a row", "a list", "a row of a list", "blank lines", "half a cell"],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_no_more_than_the_beginning_of_a_huge_file_is_read(
    tmp_path: Path, suffix: str, start: bytes
) -> None:
    path = tmp_path / f"huge.{suffix}"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(10**11)
    before = io_read()
    with suppress(DataError):  # it may be bad data
        seen(path)
    assert io_read() - before < 4 * SAMPLE_CHARACTERS


def io_read() -> int:
    """Bytes that this process has read."""
    refusal = Path("/proc/self/io").read_text()
    return int(refusal.split("rchar: ")[1].split()[0])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    refused(tmp_path / "a.jsonl", "it is not a file")


CELL = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "x"]), "content": CELL})
ROW = st.dictionaries(
    st.sampled_from(["prompt", "completion", "text", "messages", "input", "output", "x"]),
    CELL | st.lists(TURN, max_size=2),
    max_size=4,
)


@given(
    st.lists(ROW | CELL, max_size=SAMPLE_ROWS).map(lambda rows: lines(*rows)) | st.text(max_size=40)
)
def test_a_look_says_what_the_worker_says_of_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    for suffix in ("jsonl", "json", "csv"):
        path = folder / f"a.{suffix}"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        source = Source(str(path), path=path)
        assert refusal_of(glance, source) == refusal_of(whole, source)
    shutil.rmtree(folder)


def glance(source: Source) -> None:
    look_at(source, "train", DatasetSpec(name="x"), SFT)


def whole(source: Source) -> None:
    """Canonical rows as the worker makes them."""
    _, rows = canonicalise(read_rows(source, "train"), DatasetSpec(name="x"), SFT, chat=True)
    if not list(rows):
        raise no_rows(source, "train")


def refusal_of(read: Callable[[Source], None], source: Source) -> str:
    try:
        read(source)
    except DataError as error:
        return error.what
    return ""


def test_a_look_imports_nothing_heavy() -> None:
    code = (
        "import sys; import aligntune_run.planning.preflight\n"
        "heavy = {'torch', 'pyarrow', 'datasets', 'numpy', 'requests', 'jinja2'} & {*sys.modules}\n"
        "assert not heavy, heavy"
    )
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=True, timeout=300)
