"""Where rows come from: files, folders, saved datasets and what was fetched from the hub.

A source yields rows, each with its place (file and line) for messages.
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
"""Where a row stands (``train.jsonl, line 3``), and its columns."""

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
BATCH_ROWS = 1000
PIECE_BYTES = 2**20
MOST_ENTRIES = 100_000
"""Files and folders that are gone through for those with data."""


@dataclass(frozen=True)
class Source:
    """Where rows come from: a local path, or the Arrow files a hub dataset was fetched into."""

    name: str
    path: Path | None = None
    arrow_files: tuple[Path, ...] = ()


def read_rows(source: Source, split: str) -> Iterator[Row]:
    """The rows of a source's split, as they stand there.

    Raises:
        DataError: there is no such source or split, or what is there cannot be read.
    """
    if source.path is None:
        return _arrow_rows(source)
    files = find_files(source, split)
    return _saved_rows(source.path, source.name, split) if files is None else _files_rows(files)


def find_files(source: Source, split: str) -> list[tuple[Path, str]] | None:
    """The files of a local source's split, and what messages call them; None for a saved dataset.

    Raises:
        DataError: there is no such source or split.
    """
    path = source.path
    if path is None or not os.path.exists(path):
        raise DataError(f"no such dataset: {source.name}")
    if os.path.isdir(path):
        if not os.access(path, os.R_OK | os.X_OK):
            raise DataError(f"cannot read {source.name}: Permission denied")
        return None if is_saved(path) else _folder_files(path, source.name, split)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{source.name}: {path.suffix or 'a file without suffix'} is not a known format",
            f"Use one of {', '.join(SUFFIXES)}",
        )
    if split not in ("train", ""):
        raise DataError(f"{source.name} is one file and has no split {split!r}", "Leave it out")
    return [(path, path.name)]


def is_saved(folder: Path) -> bool:
    """Whether it is a dataset of ``save_to_disk``."""
    return any(os.path.exists(folder / name) for name in ("dataset_info.json", "dataset_dict.json"))


def _files_rows(files: Iterable[tuple[Path, str]]) -> Iterator[Row]:
    reader = {".jsonl": _jsonl, ".json": json_rows, ".csv": _csv, ".parquet": _parquet}
    for path, name in files:
        with reading(path, name):
            yield from reader[path.suffix.lower()](path, name)


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Have what goes wrong on reading a file be a :class:`DataError` that names it."""
    try:
        yield
    except UnicodeDecodeError:
        line = _first_undecodable(path)
        raise DataError(f"{name}, line {line}: not UTF-8 text", "Save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from error


def _first_undecodable(path: Path) -> int:
    """The line that is not UTF-8 (what the decoder reports counts from the start of its buffer)."""
    decoder, number = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        while piece := file.readline(PIECE_BYTES):  # a line may be as long as a memory
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
    """The rows of a list, or of one object a line; the file is read whole."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        if _is_object(text) and "\n" in text.strip():
            raise DataError(
                f"{name} is one JSON object", "Make it a list of rows, or one object a line"
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
    except (ValueError, RecursionError):  # a number of thousands of digits, a bracket too many
        problem = "a number too long or lists too deep"
    raise DataError(f"{where}: not valid JSON ({problem})", "Mend that line")


def as_row(row: Any, where: str) -> Values:
    """A value as a row.

    Raises:
        DataError: it is no object of columns.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: {kind_of(row)}, not an object of columns", "Mend that row")
    return row


def _csv(path: Path, name: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv_rows(file, name)


def csv_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """The rows of a table with a heading; lines come with their ends, which fields may hold."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(lines, strict=True)
    try:
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where}: not as many fields as columns", "Mend that line")
            yield where, row
    except csv.Error as error:
        line = reader.reader.line_num  # the dictionary reader's own lags behind
        raise DataError(f"{name}, line {line}: not valid CSV ({error})") from None


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
        raise DataError(f"{name} is not a valid Parquet file: {error}") from None


def _arrow_rows(source: Source) -> Iterator[Row]:
    from datasets import Dataset

    number = 0
    for path in source.arrow_files:
        for row in Dataset.from_file(str(path)):
            number += 1
            yield f"{source.name}, row {number}", row


SPLIT_REMEDY = "Set dataset.split, or dataset.eval_split where it is the evaluation set"

FILLER = ("of", "data", "dataset", "set", "split")
"""Words beside a split's name that say nothing: ``train-00000-of-00002``, ``my_training_set``."""

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
            f"{name} holds no {', '.join(SUFFIXES)} files", "Name a file or another folder"
        )
    by_split: dict[str, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    unnamed = by_split.pop("", [])
    if unnamed and by_split:
        others = ", ".join(_called(path, folder) for path in unnamed[:3])
        raise DataError(
            f"{name} holds splits ({', '.join(sorted(by_split))}), and files that tell none "
            f"by their name: {others}{', ...' if len(unnamed) > 3 else ''}",
            "Move these away, or name the file to train on itself",
        )
    by_split = by_split or {"train": unnamed}
    wanted = next((main for main, also in SPLIT_NAMES.items() if split in also), split)
    if wanted not in by_split:
        raise no_split(name, split, sorted(by_split))
    return [(path, _called(path, folder)) for path in by_split[wanted]]


def _walk(folder: Path, name: str) -> Iterator[Path]:
    """What is in a folder and those below it, without what is hidden."""
    waiting, left = [folder], MOST_ENTRIES
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue  # one that may not be read, or is gone by now
        with entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    raise DataError(
                        f"{name} holds more than {MOST_ENTRIES:,} files and folders",
                        "Name the folder with the data itself",
                    )
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                yield Path(entry.path)


def _called(path: Path, folder: Path) -> str:
    return shown(path.relative_to(folder))


def no_split(name: str, split: str, there: Iterable[str]) -> DataError:
    """What is said where a source has splits, and not this one."""
    known = shown(", ".join(there), 200)
    return DataError(f"{name} has no split {split!r}; splits: {known}", SPLIT_REMEDY)


def _split_of(path: Path) -> str:
    """The split that a file's name or a folder above it tells; none is the empty text.

    A name tells it by its last word, as ``my_test.json`` and ``train-00000-of-00002.parquet``, or
    by the split's own name in front, as ``train_sft.jsonl``; ``dev_tools.jsonl`` tells none.
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
        raise DataError(f"{name} is not a whole saved dataset: {error}") from None
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise no_split(name, split, saved)
        saved = saved[split]
    for number, row in enumerate(saved, 1):
        yield f"{name}, row {number}", row


def kind_of(value: Any) -> str:
    """What a value is, in words for a message."""
    names = {"NoneType": "empty", "dict": "an object", "list": "a list", "str": "text"}
    kind = type(value).__name__
    return "an empty list" if value == [] else names.get(kind, f"a {kind}")
