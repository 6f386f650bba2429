"""Check the first rows of local data before a run starts, within limits and without Arrow.

The readers are the worker's (:mod:`aligntune.data.sources`), so both report the same errors.
Parquet and Arrow files, saved datasets and later rows are left to the worker.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from aligntune.data.files import data_suffix, find_files, no_split
from aligntune.data.rows import canonicalise, no_rows
from aligntune.data.sources import (
    Row,
    Source,
    as_row,
    csv_rows,
    json_rows,
    jsonl_rows,
    open_text,
    reading,
    tsv_rows,
)
from aligntune.errors import DataError, shown
from aligntune.spec.paths import COMPRESSED
from aligntune.spec.run_spec import DatasetSpec

SAMPLE_ROWS = 16
SAMPLE_CHARACTERS = 4 * 2**20
"""Longer rows are left to the worker."""

INFO_BYTES = 2**20
MAGIC = b"PAR1"
SAVE_AGAIN = "Save the dataset again with save_to_disk"


@dataclass(frozen=True)
class Sample:
    """What the first rows show.

    Attributes:
        rows: the number of rows seen; 0 if only the worker can read them.
        format: their format.
        columns: the columns of the first row, under their canonical names.
        left_out: what a folder contains besides the files that are read.
    """

    rows: int
    format: str | None
    columns: tuple[str, ...] = ()
    left_out: str = ""


class _Enough(Exception):  # noqa: N818
    """The preview's limit is reached."""


def look_at(
    source: Source,
    split: str,
    spec: DatasetSpec,
    allowed: tuple[str, ...],
    limit: int | None = None,
) -> Sample:
    """Read the first rows of a local source as the worker would.

    Args:
        source: where the rows are.
        split: name of the split, with an optional slice.
        spec: the request, for format, columns and system prompt.
        allowed: the formats that the algorithm takes.
        limit: the most rows that the worker will read; None for all.

    Raises:
        DataError: as the worker would raise for the same rows.
    """
    name = split.partition("[")[0]
    files = find_files(source.path, source.name, name)
    if files is None:
        assert source.path is not None
        return _look_at_saved(source.path, source.name, name, spec, allowed)
    for path, called in files.read:
        with reading(path, called):
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"cannot read {called}: it is not a file")
            if path.suffix.lower() == ".parquet":
                _require_parquet(path, called, status.st_size)
    rows = _Counted(row for path, called in files.read for row in _first_rows(path, called))
    found: str | None = None
    columns: tuple[str, ...] = ()
    try:
        found, canonical = canonicalise(
            rows, spec, allowed, chat=True, limit=min(limit or SAMPLE_ROWS, SAMPLE_ROWS)
        )
        for row in canonical:  # making a row checks it
            columns = columns or tuple(row)
    except _Enough:
        return Sample(rows.count, found, columns, files.left_out)
    if not rows.count:
        raise no_rows(source, name)
    return Sample(rows.count, found, columns, files.left_out)


class _Counted(Iterator[Row]):
    """Rows, counted."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self.rows, self.count = rows, 0

    def __next__(self) -> Row:
        row = next(self.rows)
        self.count += 1
        return row


def _first_rows(path: Path, name: str) -> Iterator[Row]:
    """A file's rows, up to the limit of characters."""
    suffix = data_suffix(path)
    if suffix in (".parquet", ".arrow"):
        raise _Enough
    compressed = path.suffix.lower() in COMPRESSED
    with reading(path, name):
        if suffix == ".json" and not compressed and path.stat().st_size <= SAMPLE_CHARACTERS:
            yield from json_rows(path, name)
            return
        with open_text(path, newline="") as file:
            start = file.read(SAMPLE_CHARACTERS).lstrip() if suffix == ".json" else ""
            if start.startswith("["):
                yield from _listed(start, name)
                return
            file.seek(0)
            reader = {".csv": csv_rows, ".tsv": tsv_rows}.get(suffix, jsonl_rows)
            yield from reader(_lines(file), name)


def _lines(file: TextIO) -> Iterator[str]:
    left = SAMPLE_CHARACTERS
    while line := file.readline(left):
        left -= len(line)
        if left == 0 and not line.endswith("\n"):
            raise _Enough
        yield line
        if left == 0:
            raise _Enough


def _listed(start: str, name: str) -> Iterator[Row]:
    """The first rows of a long JSON list, from its first characters."""
    decoder, place, number = json.JSONDecoder(), 1, 0
    while True:
        while start[place : place + 1] in tuple(" \t\r\n,"):
            place += 1
        try:
            row, place = decoder.raw_decode(start, place)
        except (ValueError, RecursionError):
            raise _Enough from None  # cut or broken, which only the whole file shows
        number += 1
        where = f"{name}, row {number}"
        yield where, as_row(row, where)


def _require_parquet(path: Path, name: str, size: int) -> None:
    with path.open("rb") as file:
        first = file.read(len(MAGIC))
        file.seek(max(0, size - len(MAGIC)))
        last = file.read(len(MAGIC))
    if (first, last) != (MAGIC, MAGIC) or size < 3 * len(MAGIC):
        raise DataError(
            f"{name} is not a valid Parquet file: it does not start and end with {MAGIC.decode()}",
            "Save or download it again",
        )


def _look_at_saved(
    folder: Path, name: str, split: str, spec: DatasetSpec, allowed: tuple[str, ...]
) -> Sample:
    """Check the metadata of a dataset of ``save_to_disk``: its splits, files and columns."""
    if os.path.exists(folder / "dataset_dict.json"):
        splits = _object(folder / "dataset_dict.json", name).get("splits")
        there = [one for one in splits if isinstance(one, str)] if isinstance(splits, list) else []
        if split not in there:
            raise no_split(name, split, there)
        folder = folder / split
    files = _object(folder / "state.json", name).get("_data_files")
    for file in files if isinstance(files, list) else []:
        called = file.get("filename") if isinstance(file, dict) else None
        if isinstance(called, str) and not os.path.isfile(folder / called):
            raise DataError(
                f"{name} is an incomplete saved dataset: {shown(called)} is missing", SAVE_AGAIN
            )
    features = _object(folder / "dataset_info.json", name).get("features")
    if not isinstance(features, dict):
        return Sample(0, None)
    columns = dict.fromkeys(features)
    found, _ = canonicalise([(f"{name}, row 1", columns)], spec, allowed, chat=True)
    others = (name for name in columns if name not in spec.columns.values())
    return Sample(0, found, (*spec.columns, *others))


def _object(path: Path, name: str) -> dict[str, Any]:
    """A small JSON object of a saved dataset."""
    broken = f"{name} is an incomplete saved dataset: {path.name}"
    if not os.path.isfile(path):
        raise DataError(f"{broken} is missing", SAVE_AGAIN)
    try:
        with path.open("rb") as file:
            content = file.read(INFO_BYTES + 1)
        if len(content) > INFO_BYTES:
            return {}  # thousands of columns, which are left to the worker
        values = json.loads(content)
    except (OSError, ValueError, RecursionError):
        raise DataError(f"{broken} cannot be read", SAVE_AGAIN) from None
    if not isinstance(values, dict):
        raise DataError(f"{broken} is not a JSON object", SAVE_AGAIN)
    return values
