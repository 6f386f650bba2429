"""Sources of rows: files, folders, saved datasets and fetched hub datasets.

A source yields rows, each with its location (file and line) for messages.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.errors import DataError, shown

Values = Mapping[str, Any]
Row = tuple[str, Values]
"""A row's location (``train.jsonl, line 3``), and its columns."""

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
BATCH_ROWS = 1000
PIECE_BYTES = 2**20
MOST_ENTRIES = 100_000
"""The most files and folders that are searched for data."""


@dataclass(frozen=True)
class Source:
    """A local path, or the Arrow files of a fetched hub dataset."""

    name: str
    path: Path | None = None
    arrow_files: tuple[Path, ...] = ()


def read_rows(source: Source, split: str) -> Iterator[Row]:
    """The rows of a source's split, unchanged.

    Raises:
        DataError: there is no such source or split, or it cannot be read.
    """
    if source.path is None:
        return _arrow_rows(source)
    files = find_files(source, split)
    return _saved_rows(source.path, source.name, split) if files is None else _files_rows(files)


def find_files(source: Source, split: str) -> list[tuple[Path, str]] | None:
    """The files of a local source's split, with names for messages; None for a saved dataset.

    Raises:
        DataError: there is no such source or split.
    """
    path = source.path
    if path is None or not os.path.exists(path):
        raise DataError(f"no such dataset: {source.name}", "Check the path")
    if os.path.isdir(path):
        if not os.access(path, os.R_OK | os.X_OK):
            raise DataError(
                f"cannot read {source.name}: Permission denied",
                "Make it readable for the user that runs the training",
            )
        return None if is_saved(path) else _folder_files(path, source.name, split)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{source.name}: {path.suffix or 'a file without a suffix'} is not a known format",
            f"Use one of {', '.join(SUFFIXES)}",
        )
    if split not in ("train", ""):
        raise DataError(f"{source.name} is one file and has no split {split!r}", "Remove the split")
    return [(path, path.name)]


def is_saved(folder: Path) -> bool:
    """Whether a folder is a dataset of ``save_to_disk``."""
    return any(os.path.exists(folder / name) for name in ("dataset_info.json", "dataset_dict.json"))


def _files_rows(files: Iterable[tuple[Path, str]]) -> Iterator[Row]:
    reader = {".jsonl": _jsonl, ".json": json_rows, ".csv": _csv, ".parquet": _parquet}
    for path, name in files:
        with reading(path, name):
            yield from reader[path.suffix.lower()](path, name)


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turn errors of reading a file into a :class:`DataError` that names it."""
    try:
        yield
    except UnicodeDecodeError:
        line = _first_undecodable(path)
        raise DataError(f"{name}, line {line}: not UTF-8 text", "Save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from error


def _first_undecodable(path: Path) -> int:
    """The line that is not UTF-8 (the decoder counts from the start of its buffer)."""
    decoder, number = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        while piece := file.readline(PIECE_BYTES):  # a line may be very long
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                break
            number += piece.endswith(b"\n")
    return number


def _jsonl(path: Path, name: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        yield from jsonl_rows(file, name)


def jsonl_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """The rows of JSON lines."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{name}, line {number}"
            yield where, as_row(_parse(line, where), where)


def json_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of a list, or of one object per line; reads the whole file."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        if _is_object(text) and "\n" in text.strip():
            raise DataError(
                f"{name} is one JSON object", "Make it a list of rows, or write one object per line"
            )
        yield from _jsonl(path, name)
        return
    for number, row in enumerate(_parse(text, name), 1):
        where = f"{name}, row {number}"
        yield where, as_row(row, where)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        problem = f"{error.msg} at {place}column {error.colno}"
    except (ValueError, RecursionError):  # a number with thousands of digits, or deep nesting
        problem = "a number is too long, or lists are nested too deeply"
    raise DataError(f"{where}: not valid JSON ({problem})", "Fix that line")


def as_row(row: Any, where: str) -> Values:
    """A value as a row.

    Raises:
        DataError: the value is not an object of columns.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: {kind_of(row)}, not an object of columns", "Fix that row")
    return row


def _csv(path: Path, name: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv_rows(file, name)


def csv_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """The rows of a table with a header; lines include line breaks, which fields may contain."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(lines, strict=True)
    try:
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(
                    f"{where}: the number of fields differs from the number of columns",
                    "Fix that line",
                )
            yield where, row
    except csv.Error as error:
        line = reader.reader.line_num  # the dictionary reader's count lags behind
        raise DataError(f"{name}, line {line}: not valid CSV ({error})", "Fix that line") from None


def _parquet(path: Path, name: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}, row {number}", row
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{name} is not a valid Parquet file: {error}", "Save or download it again"
        ) from None


def _arrow_rows(source: Source) -> Iterator[Row]:
    from datasets import Dataset

    number = 0
    for path in source.arrow_files:
        for row in Dataset.from_file(str(path)):
            number += 1
            yield f"{source.name}, row {number}", row


SPLIT_REMEDY = "Set dataset.split, or dataset.eval_split for the evaluation set"

FILLER = ("of", "data", "dataset", "set", "split")
"""Words in file names that do not name a split: ``train-00000-of-00002``, ``my_training_set``."""

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def _folder_files(folder: Path, name: str, split: str) -> list[tuple[Path, str]]:
    found = (path for path in sorted(_walk(folder, name)) if path.suffix.lower() in SUFFIXES)
    files = [path for path in found if os.path.isfile(path)]
    if not files:
        raise DataError(
            f"{name} contains no {', '.join(SUFFIXES)} files", "Use a file or another folder"
        )
    by_split: dict[str, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    unnamed = by_split.pop("", [])
    if unnamed and by_split:
        others = ", ".join(_called(path, folder) for path in unnamed[:3])
        raise DataError(
            f"{name} contains splits ({', '.join(sorted(by_split))}), and files whose names match "
            f"no split: {others}{', ...' if len(unnamed) > 3 else ''}",
            "Move these files away, or set dataset.name to the file to train on",
        )
    by_split = by_split or {"train": unnamed}
    wanted = next((main for main, also in SPLIT_NAMES.items() if split in also), split)
    if wanted not in by_split:
        raise no_split(name, split, sorted(by_split))
    return [(path, _called(path, folder)) for path in by_split[wanted]]


def _walk(folder: Path, name: str) -> Iterator[Path]:
    """The files and folders below a folder, without hidden ones."""
    waiting, left = [folder], MOST_ENTRIES
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue  # unreadable, or deleted meanwhile
        with entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    raise DataError(
                        f"{name} contains more than {MOST_ENTRIES:,} files and folders",
                        "Use the folder that contains the data",
                    )
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                yield Path(entry.path)


def _called(path: Path, folder: Path) -> str:
    return shown(path.relative_to(folder))


def no_split(name: str, split: str, there: Iterable[str]) -> DataError:
    """The error for a split that a source does not have."""
    known = shown(", ".join(there), 200)
    return DataError(f"{name} has no split {split!r}; splits: {known}", SPLIT_REMEDY)


def _split_of(path: Path) -> str:
    """The split in the name of a file or of a folder above it; empty if there is none.

    It is the last word of the name, as in ``my_test.json`` and ``train-00000-of-00002.parquet``, or
    the canonical name in front, as in ``train_sft.jsonl``. ``dev_tools.jsonl`` has no split.
    """
    for part in (path.stem, *reversed(path.parts[:-1])):
        words = [word for word in re.findall("[a-z]+", part.lower()) if word not in FILLER]
        for split, also in SPLIT_NAMES.items():
            if words and (words[-1] in also or words[0] == split):
                return split
    return ""


def _saved_rows(folder: Path, name: str, split: str) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{name} is an incomplete saved dataset: {error}",
            "Save the dataset again with save_to_disk",
        ) from None
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise no_split(name, split, saved)
        saved = saved[split]
    for number, row in enumerate(saved, 1):
        yield f"{name}, row {number}", row


def kind_of(value: Any) -> str:
    """The type of a value, for messages."""
    names = {"NoneType": "empty", "dict": "an object", "list": "a list", "str": "text"}
    kind = type(value).__name__
    return "an empty list" if value == [] else names.get(kind, f"a {kind}")
