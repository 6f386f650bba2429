"""Sources of rows: files, folders, saved datasets and fetched hub datasets.

A source yields rows, each with its location (file and line) for messages.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from aligntune.data.files import data_suffix, find_files, no_split
from aligntune.errors import DataError, shown

Values = Mapping[str, Any]
Row = tuple[str, Values]
"""A row's location (``train.jsonl, line 3``), and its columns."""

BATCH_ROWS = 1000
PIECE_BYTES = 2**20
SPACE = re.compile(r"[ \t\r\n]*")
"""What JSON allows between values."""


@dataclass(frozen=True)
class Source:
    """A local path, or the Arrow files of a fetched hub dataset."""

    name: str
    path: Path | None = None
    arrow_files: tuple[Path, ...] = ()


def read_rows(source: Source, split: str) -> Generator[Row, None, None]:
    """The rows of a source's split, unchanged.

    Raises:
        DataError: there is no such source or split, or it cannot be read.
    """
    if source.path is None:
        return _arrow_rows(source)
    files = find_files(source.path, source.name, split)
    if files is None:
        return _saved_rows(source.path, source.name, split)
    return _files_rows(files.read)


def left_out(source: Source, split: str) -> str:
    """What a folder contains besides the files that are read, with counts; empty if nothing."""
    files = find_files(source.path, source.name, split) if source.path else None
    return files.left_out if files else ""


def _files_rows(files: Iterable[tuple[Path, str]]) -> Generator[Row, None, None]:
    for path, name in files:
        with reading(path, name):
            yield from READERS[data_suffix(path)](path, name)


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open a text file, compressed or not; a byte order mark is no part of the text."""
    file: TextIO = _opener(path)(path, "rt", encoding="utf-8-sig", newline=newline)
    return file


def _opener(path: Path) -> Callable[..., Any]:
    match path.suffix.lower():
        case ".gz":
            return gzip.open
        case ".bz2":
            return bz2.open
        case ".xz":
            return lzma.open
    return open


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turn errors of reading a file into a :class:`DataError` that names it."""
    try:
        yield
    except UnicodeDecodeError:
        line = _first_undecodable(path)
        raise DataError(f"{name}, line {line}: not UTF-8 text", "Save it as UTF-8") from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            f"cannot read {name}: the compressed file is incomplete or damaged ({error})",
            "Download or compress it again",
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from error


def _first_undecodable(path: Path) -> int:
    """The line that is not UTF-8 (the decoder counts from the start of its buffer)."""
    decoder, number = codecs.getincrementaldecoder("utf-8")(), 1
    with _opener(path)(path, "rb") as file:
        while piece := file.readline(PIECE_BYTES):  # a line may be very long
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                break
            number += piece.endswith(b"\n")
    return number


def _jsonl(path: Path, name: str) -> Iterator[Row]:
    with open_text(path) as file:
        yield from jsonl_rows(file, name)


def jsonl_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """The rows of JSON lines."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{name}, line {number}"
            with _decoding(where):
                row = json.loads(line, object_pairs_hook=_unique)
            yield where, as_row(row, where)


def json_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of a list, or of one object per line; reads the whole file."""
    with open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        if _is_object(text) and "\n" in text.strip():
            raise DataError(
                f"{name} is one JSON object", "Make it a list of rows, or write one object per line"
            )
        yield from _jsonl(path, name)
        return
    yield from _listed_rows(text, name)


def _listed_rows(text: str, name: str) -> Iterator[Row]:
    """The rows of a JSON list, decoded one by one, so that an error names its row."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    place, number, mark = _after_space(text, text.index("[") + 1), 0, ","
    if text[place : place + 1] == "]":
        mark = "]"
    while mark == ",":
        number += 1
        where = f"{name}, row {number}"
        with _decoding(where):
            row, place = decoder.raw_decode(text, place)
            place = _after_space(text, place)
            mark = text[place : place + 1]
            if mark not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        yield where, as_row(row, where)
        if mark == ",":
            place = _after_space(text, place + 1)
    if (end := _after_space(text, place + 1)) < len(text):
        with _decoding(name):
            raise json.JSONDecodeError("Extra data", text, end)


def _after_space(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    return found.end() if found else place


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class _RepeatedKeyError(Exception):
    """An object of JSON has a key twice, of which Python's reader would keep the last."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _RepeatedKeyError(_repeated([name for name, _ in pairs]))
    return values


def _repeated(names: Sequence[str]) -> str | None:
    """The first name that occurs twice."""
    return next((name for name in names if names.count(name) > 1), None)


@contextmanager
def _decoding(where: str) -> Iterator[None]:
    """Turn errors of decoding JSON into a :class:`DataError`."""
    try:
        yield
        return
    except _RepeatedKeyError as error:
        raise _twice(where, str(error)) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        problem = f"{error.msg} at {place}column {error.colno}"
    except (ValueError, RecursionError):  # a number with thousands of digits, or deep nesting
        problem = "a number is too long, or lists are nested too deeply"
    raise DataError(f"{where}: not valid JSON ({problem})", "Fix that line")


def _twice(where: str, name: str) -> DataError:
    return DataError(
        f"{where}: two values are named {shown(name)!r}, and only one would be read",
        "Rename or remove one of them",
    )


def _require_unique(names: Sequence[str], where: str) -> None:
    """Refuse a table with two columns of one name."""
    if (name := _repeated(names)) is not None:
        raise _twice(where, name)


def as_row(row: Any, where: str) -> Values:
    """A value as a row.

    Raises:
        DataError: the value is not an object of columns.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: {kind_of(row)}, not an object of columns", "Fix that row")
    return row


def _csv(path: Path, name: str) -> Iterator[Row]:
    with open_text(path, newline="") as file:
        yield from csv_rows(file, name)


def _tsv(path: Path, name: str) -> Iterator[Row]:
    with open_text(path, newline="") as file:
        yield from tsv_rows(file, name)


def tsv_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """The rows of a table whose fields are separated by tabs."""
    return csv_rows(lines, name, "\t")


def csv_rows(lines: Iterable[str], name: str, delimiter: str = ",") -> Iterator[Row]:
    """The rows of a table with a header; lines include line breaks, which fields may contain."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(lines, strict=True, delimiter=delimiter)
    try:
        _require_unique(reader.fieldnames or (), f"{name}, line 1")
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
    import pyarrow.parquet

    with _arrow_errors(name, "Parquet"):
        table = pyarrow.parquet.ParquetFile(path)
        _require_unique(table.schema_arrow.names, name)
        yield from _batch_rows(table.iter_batches(batch_size=BATCH_ROWS), name)


def _arrow(path: Path, name: str) -> Iterator[Row]:
    """The rows of an Arrow file, or of an Arrow stream as ``datasets`` writes."""
    import pyarrow

    with _arrow_errors(name, "Arrow"), pyarrow.memory_map(str(path)) as file:
        try:
            table = pyarrow.ipc.open_file(file)
            batches = (table.get_batch(number) for number in range(table.num_record_batches))
        except pyarrow.ArrowInvalid:
            file.seek(0)
            batches = table = pyarrow.ipc.open_stream(file)
        _require_unique(table.schema.names, name)
        yield from _batch_rows(batches, name)


def _batch_rows(batches: Iterable[Any], name: str) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{name}, row {number}", row


@contextmanager
def _arrow_errors(name: str, form: str) -> Iterator[None]:
    """Turn errors of reading Arrow's formats into a :class:`DataError`."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{name} is not a valid {form} file: {error}", "Save or download it again"
        ) from None


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": json_rows,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
"""The readers of :data:`aligntune.spec.paths.DATA_SUFFIXES`."""


def _arrow_rows(source: Source) -> Generator[Row, None, None]:
    from datasets import Dataset

    number = 0
    for path in source.arrow_files:
        for row in Dataset.from_file(str(path)):
            number += 1
            yield f"{source.name}, row {number}", row


def _saved_rows(folder: Path, name: str, split: str) -> Generator[Row, None, None]:
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
