"""Files: which ones are read for a split, and that nothing is left out in silence."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aligntune.data.files import find_files
from aligntune.data.preview import look_at
from aligntune.data.sources import Source, left_out, read_rows
from aligntune.errors import DataError
from aligntune.spec.sections import DatasetSpec

ROW = '{"text": "wanted"}\n'
OTHER = '{"text": "other"}\n'

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def write(path: Path, text: str = ROW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    compress = COMPRESS.get(path.suffix)
    content = text.encode()
    path.write_bytes(compress(content) if compress else content)
    return path


def texts(path: Path, split: str = "train") -> list[str]:
    with closing(read_rows(Source(path.name, path), split)) as rows:
        return [row["text"] for _, row in rows]


def refusal(path: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as refused:
        texts(path, split)
    message = str(refused.value)
    assert "\n" not in message
    return message


# --- formats and compression


@pytest.mark.parametrize("compressed", ["", *COMPRESS])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"text": "a\\nb"}\n{"text": "c"}\n'),
        ("a.ndjson", '{"text": "a\\nb"}\n{"text": "c"}\n'),
        ("a.json", '[{"text": "a\\nb"}, {"text": "c"}]'),
        ("a.csv", 'text,id\n"a\nb",1\nc,2\n'),
        ("a.tsv", 'text\tid\n"a\nb"\t1\nc\t2\n'),
    ],
)
def test_a_text_file_is_read_in_every_format_compressed_or_not(
    name: str, text: str, compressed: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"{name}{compressed}", f"\ufeff{text}")
    assert texts(path) == ["a\nb", "c"]
    seen = look_at(Source(path.name, path), "train", DatasetSpec(name=str(path)), ("text",))
    assert (seen.rows, seen.format, seen.columns) == (2, "text", ("text",))


@pytest.mark.parametrize("compressed", COMPRESS)
def test_a_compressed_file_that_was_cut_is_named(compressed: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.jsonl{compressed}", ROW * 1000)
    path.write_bytes(path.read_bytes()[:-8])
    assert f"cannot read a.jsonl{compressed}: the compressed file is incomplete" in refusal(path)


def test_a_file_that_is_compressed_by_name_only_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text(ROW)
    assert "a.jsonl.gz: the compressed file is incomplete or damaged" in refusal(
        tmp_path / "a.jsonl.gz"
    )


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.zip", "a.parquet.gz", "a.gz", "a"])
def test_a_file_of_another_format_is_refused_with_those_that_are_read(
    name: str, tmp_path: Path
) -> None:
    message = refusal(write(tmp_path / name))
    assert "is not a known format" in message
    assert ".jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, and .gz, .bz2, .xz" in message


# --- splits


def test_a_folder_without_named_splits_is_all_for_training(tmp_path: Path) -> None:
    write(tmp_path / "data/b.jsonl")
    write(tmp_path / "data/a.jsonl", OTHER)
    assert texts(tmp_path / "data") == ["other", "wanted"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("train-00000-of-00002.jsonl", "train"),
        ("data/train/0.jsonl", "train"),
        ("my_training_set.jsonl", "train"),
        ("validation.jsonl", "validation"),
        ("dev.jsonl", "validation"),
        ("valid.jsonl", "dev"),
        ("test.jsonl", "test"),
        ("eval.jsonl", "test"),
        ("my_test.json", "test"),
        ("train_sft-00000.jsonl", "train"),
        ("dev_data.jsonl", "validation"),
        ("dev_tools.jsonl", "validation"),
        ("gsm8k_train_v2.jsonl", "train"),
        ("v1.TEST.cases.jsonl", "test"),
        ("train.jsonl.gz", "train"),
        ("train/en/part-1.jsonl", "train"),
    ],
)
def test_a_split_is_told_by_a_file_s_or_folder_s_name(
    name: str, split: str, tmp_path: Path
) -> None:
    write(tmp_path / "set" / name)
    assert texts(tmp_path / "set", split) == ["wanted"]


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path / "set/test.jsonl")
    write(tmp_path / "set/val.jsonl")
    message = refusal(tmp_path / "set")
    assert "set has no split 'train'; splits: test, validation" in message


def test_files_that_tell_no_split_beside_some_that_do_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "set/train.jsonl")
    write(tmp_path / "set/deep/extra.jsonl")
    message = refusal(tmp_path / "set")
    assert "set contains splits (train), and files whose names match no split" in message
    assert ": deep/extra.jsonl. Move these files away, or set dataset.name" in message


@pytest.mark.parametrize("name", ["devtools.jsonl", "contest.jsonl", "evaluate.jsonl", "a.jsonl"])
def test_a_word_that_only_looks_like_a_split_tells_none(name: str, tmp_path: Path) -> None:
    write(tmp_path / f"set/{name}")
    assert texts(tmp_path / "set") == ["wanted"]


def test_the_test_file_is_not_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "set/gsm8k_train_v2.jsonl")
    write(tmp_path / "set/gsm8k_test_v2.jsonl", OTHER)
    assert texts(tmp_path / "set") == ["wanted"]
    assert texts(tmp_path / "set", "test") == ["other"]


@pytest.mark.parametrize("name", ["train_test.jsonl", "eval-of-training.json"])
def test_a_name_with_the_words_of_two_splits_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path / "set" / name)
    assert f"set: the name {name} has the words of two splits, train and test" in refusal(
        tmp_path / "set"
    )


# --- what is left out


def test_whatever_a_folder_has_besides_its_rows_is_named_with_a_count(tmp_path: Path) -> None:
    write(tmp_path / "set/train.jsonl")
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "README.md", "rows.zip", "LICENSE"):
        write(tmp_path / "set" / name)
    write(tmp_path / "set/.cache/a.jsonl")
    write(tmp_path / "set/test.jsonl", OTHER)
    (tmp_path / "set/gone.jsonl").symlink_to(tmp_path / "nowhere")
    source = Source("set", tmp_path / "set")
    assert left_out(source, "train").split("; ") == [
        "1 .md (README.md)",
        "4 .txt (a.txt, b.txt, c.txt, ...)",
        "1 .zip (rows.zip)",
        "1 hidden (.cache)",
        "1 of split test (test.jsonl)",
        "1 without a suffix (LICENSE)",
        "1 without content (broken links or devices) (gone.jsonl)",
    ]
    spec = DatasetSpec(name=str(source.path))
    assert look_at(source, "train", spec, ("text",)).left_out == left_out(source, "train")


def test_a_folder_whose_files_are_all_read_has_nothing_left_out(tmp_path: Path) -> None:
    write(tmp_path / "set/a.jsonl")
    assert left_out(Source("set", tmp_path / "set"), "train") == ""
    assert left_out(Source("a", tmp_path / "set/a.jsonl"), "train") == ""


def test_a_folder_without_data_says_what_it_contains_instead(tmp_path: Path) -> None:
    write(tmp_path / "set/a.txt")
    assert "files; it contains 1 .txt (a.txt)" in refusal(tmp_path / "set")


def test_linked_files_and_folders_are_read_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/deep/b.jsonl", OTHER)
    write(tmp_path / "elsewhere/one.jsonl")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "set/a.jsonl").symlink_to(tmp_path / "elsewhere/one.jsonl")
    (tmp_path / "set/loop").symlink_to(tmp_path / "set")
    found = find_files(tmp_path / "set", "set", "train")
    assert found is not None
    assert [name for _, name in found.read] == ["a.jsonl", "linked/b.jsonl"]
    assert texts(tmp_path / "set") == ["wanted", "other"]


def test_a_folder_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "set/a.jsonl")
    write(tmp_path / "set/closed/b.jsonl")
    scandir = os.scandir

    def refuse(path: Path) -> Any:  # root, who may run the tests, reads every folder
        if path.name == "closed":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "cannot read set/closed: Permission denied" in refusal(tmp_path / "set")
