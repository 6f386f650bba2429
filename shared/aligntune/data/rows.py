"""Rows of a dataset in one canonical form: sources are read, formats detected, splits cut.

Canonical rows (:mod:`aligntune.data.formats`) are a ``datasets.Dataset`` with the columns of
their format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aligntune.data.formats import FORMATS, UnusableError, detect, require_columns
from aligntune.data.sources import BATCH_ROWS, Row, Source, Values, read_rows
from aligntune.errors import DataError, shown
from aligntune.spec.run_spec import DatasetSpec
from aligntune.spec.suggest import nearest


@dataclass(frozen=True)
class Rows:
    """Canonical rows and what they were: ``format`` as detected, ``source`` for the log."""

    dataset: Any
    format: str
    source: str


def load(
    source: Source,
    split: str,
    spec: DatasetSpec,
    allowed: tuple[str, ...],
    limit: int | None,
    chat: bool,
) -> Rows:
    """Read rows and bring them to canonical form.

    Args:
        source: where they are.
        split: name of the split, with an optional slice (``train[:10%]``).
        spec: the request, for format, columns and system prompt.
        allowed: the formats that the algorithm takes.
        limit: read no more rows than this, after slicing.
        chat: whether the tokenizer has a chat template, which decides what instructions become.

    Raises:
        DataError: no such split or column, a malformed or empty row, no rows, mixed formats; the
            message names file and line.
    """
    name, bracket, rest = split.partition("[")
    rows = read_rows(source, name)
    read = None if bracket else limit
    format_name, canonical = canonicalise(rows, spec, allowed, chat, read)
    dataset = _dataset(canonical)
    if len(dataset) == 0:
        raise no_rows(source, name)
    if bracket:
        dataset = _slice(dataset, name, f"{name}[{rest}")
        if limit is not None:
            dataset = dataset.select(range(min(limit, len(dataset))))
        if len(dataset) == 0:
            raise DataError(f"{source.name}: the slice {split!r} holds no rows")
    return Rows(dataset, format_name, f"{source.name}, split {split}")


def no_rows(source: Source, split: str) -> DataError:
    """What is said of data without a row."""
    return DataError(f"{source.name} has no rows in split {split!r}", "Name data that has rows")


def canonicalise(
    rows: Iterable[Row],
    spec: DatasetSpec,
    allowed: tuple[str, ...],
    chat: bool,
    limit: int | None = None,
) -> tuple[str, Iterator[dict[str, Any]]]:
    """The format of the rows (of the first one, where it is not named) and the canonical rows."""
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        return spec.format, iter(())
    known = spec.columns
    missing = [theirs for theirs in known.values() if theirs not in first[1]]
    if missing:
        raise DataError(
            f"{first[0]}: no column {missing[0]!r}; columns: {shown(', '.join(first[1]), 200)}"
            f"{nearest(missing[0], list(first[1]))}",
            "Mend dataset.columns",
        )
    mapped = _rename(first[1], known)
    name = spec.format if spec.format != "auto" else detect(mapped, first[0], allowed)
    turn = FORMATS[name].turn

    def canonical() -> Iterator[dict[str, Any]]:
        shape: set[str] | None = None
        known_columns = set(mapped)
        row: Row | None = first
        count = 0
        while row is not None:
            where, values = row[0], _rename(row[1], known)
            try:
                require_columns(values, name)
                turned = turn(values, chat)
            except UnusableError as problem:
                alike = f"Every row has to be {name} like the first one" if count else ""
                raise DataError(f"{where}: {problem}", alike or "Mend that row") from None
            # Columns for rewards may hold what they like, as long as the first row has them too.
            free = name == "prompt"
            if free:
                turned = {**dict.fromkeys(mapped), **turned}
            if free and not known_columns.issuperset(turned):
                extra = next(key for key in turned if key not in known_columns)
                raise DataError(
                    f"{where}: a column '{shown(extra)}', which the first row does not have"
                )
            kinds = {
                f"{key} {type(value).__name__}"
                for key, value in turned.items()
                if not free or key == "prompt"
            }
            if shape is None:
                shape = kinds
            elif kinds != shape:
                raise DataError(
                    f"{where}: a row of {shown(', '.join(sorted(kinds)))} among rows of "
                    f"{shown(', '.join(sorted(shape)))}",
                    "Rows of one dataset have to have one format",
                )
            yield _with_system(turned, spec.system_prompt, where) if spec.system_prompt else turned
            count += 1
            row = next(iterator, None) if count != limit else None

    return name, canonical()


def _rename(values: Values, known: Mapping[str, str]) -> dict[str, Any]:
    """Columns under their canonical names; a named one wins over one that has the name already."""
    named = {ours: values[theirs] for ours, theirs in known.items() if theirs in values}
    used = {*known, *known.values()}
    return {key: value for key, value in values.items() if key not in used} | named


def _with_system(row: dict[str, Any], prompt: str, where: str) -> dict[str, Any]:
    key = "messages" if "messages" in row else "prompt"
    if not isinstance(row.get(key), list):
        raise DataError(
            f"dataset.system_prompt is for conversations, and {where} is none",
            "Leave it out, or use chat data",
        )
    if any(message["role"] == "system" for message in row[key]):
        return row
    return {**row, key: [{"role": "system", "content": prompt}, *row[key]]}


def _slice(dataset: Any, name: str, split: str) -> Any:
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(dataset)})
    except (ValueError, AssertionError) as error:
        raise DataError(
            f"split {split!r}: {error}", "For example train[:10%] or train[100:200]"
        ) from None
    return dataset.select([index for part in parts for index in range(part.from_, part.to)])


def _dataset(rows: Iterator[dict[str, Any]]) -> Any:
    """Canonical rows as Arrow, a batch at a time, so that Python objects do not pile up."""
    import pyarrow
    from datasets import Dataset

    batches, batch = [], []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH_ROWS:
                batches.append(pyarrow.Table.from_pylist(batch))
                batch = []
        if batch:
            batches.append(pyarrow.Table.from_pylist(batch))
        # What the first rows lack or hold as whole numbers, later ones may have or hold as others.
        whole = pyarrow.concat_tables(batches, promote_options="permissive") if batches else None
    except pyarrow.ArrowException as error:
        raise DataError(
            f"a column holds values of several kinds: {str(error).splitlines()[0]}",
            "Give every column one kind of value",
        ) from None
    return Dataset(whole) if whole is not None else Dataset.from_list([])
