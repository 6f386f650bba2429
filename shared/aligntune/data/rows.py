"""Load the rows of a dataset in canonical form: read sources, detect formats, apply slices.

Canonical rows (:mod:`aligntune.data.formats`) are a ``datasets.Dataset`` with the columns of
their format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aligntune.data.columns import Columns
from aligntune.data.formats import FORMATS, UnusableError, detect, require_columns
from aligntune.data.numbers import Numbers
from aligntune.data.sources import BATCH_ROWS, Row, Source, Values, left_out, read_rows
from aligntune.errors import DataError, shown
from aligntune.spec.run_spec import DatasetSpec
from aligntune.spec.suggest import nearest


@dataclass(frozen=True)
class Rows:
    """Canonical rows, with their detected ``format``, and their ``source`` for the log.

    ``notes`` say what is not used.
    """

    dataset: Any
    format: str
    source: str
    notes: tuple[str, ...] = ()


def load(
    source: Source,
    split: str,
    spec: DatasetSpec,
    allowed: tuple[str, ...],
    limit: int | None,
    chat: bool,
) -> Rows:
    """Read rows and convert them to canonical form.

    Args:
        source: where the rows are.
        split: name of the split, with an optional slice (``train[:10%]``).
        spec: the request, for format, columns and system prompt.
        allowed: the formats that the algorithm takes.
        limit: the most rows to return, after slicing.
        chat: whether the tokenizer has a chat template; if so, instructions become messages.

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
            raise DataError(f"{source.name}: the slice {split!r} is empty", "Use a larger slice")
    ignored = left_out(source, name)
    notes = (f"not read: {ignored}",) if ignored else ()
    return Rows(dataset, format_name, f"{source.name}, split {split}", notes)


def no_rows(source: Source, split: str) -> DataError:
    """The error for data without rows."""
    return DataError(
        f"{source.name} has no rows in split {split!r}", "Use data with at least one row"
    )


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
            "Fix dataset.columns",
        )
    mapped = _rename(first[1], known)
    name = spec.format if spec.format != "auto" else detect(mapped, first[0], allowed)
    convert = FORMATS[name].convert

    def canonical() -> Iterator[dict[str, Any]]:
        shape: set[str] | None = None
        columns = Columns()
        known_columns = set(mapped)
        row: Row | None = first
        count = 0
        while row is not None:
            where, values = row[0], _rename(row[1], known)
            try:
                require_columns(values, name)
                row_values = convert(values, chat)
            except UnusableError as problem:
                alike = f"Every row must be {name} data like the first row" if count else ""
                raise DataError(f"{where}: {problem}", alike or "Fix that row") from None
            # Columns for rewards may contain anything, but the first row must have them.
            free = name == "prompt"
            if free:
                row_values = {**dict.fromkeys(mapped), **row_values}
            if free and not known_columns.issuperset(row_values):
                extra = next(key for key in row_values if key not in known_columns)
                raise DataError(
                    f"{where}: the column '{shown(extra)}' is missing in the first row",
                    "Add it to the first row, with null if it has no value",
                )
            if free:
                others = {key: value for key, value in row_values.items() if key != "prompt"}
                columns.require_alike(others, where)
            kinds = {
                f"{key} {type(value).__name__}"
                for key, value in row_values.items()
                if not free or key == "prompt"
            }
            if shape is None:
                shape = kinds
            elif kinds != shape:
                raise DataError(
                    f"{where}: a row of {shown(', '.join(sorted(kinds)))} among rows of "
                    f"{shown(', '.join(sorted(shape)))}",
                    "All rows of a dataset must have the same format",
                )
            if spec.system_prompt:
                row_values = _with_system(row_values, spec.system_prompt, where)
            yield row_values
            count += 1
            row = next(iterator, None) if count != limit else None

    return name, canonical()


def _rename(values: Values, known: Mapping[str, str]) -> dict[str, Any]:
    """Columns under their canonical names; a mapped column replaces one with the same name."""
    named = {ours: values[theirs] for ours, theirs in known.items() if theirs in values}
    used = {*known, *known.values()}
    return {key: value for key, value in values.items() if key not in used} | named


def _with_system(row: dict[str, Any], prompt: str, where: str) -> dict[str, Any]:
    key = "messages" if "messages" in row else "prompt"
    if not isinstance(row.get(key), list):
        raise DataError(
            f"dataset.system_prompt needs conversations, and {where} is not one",
            "Remove it, or use chat data",
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
    """Canonical rows as Arrow, one batch at a time, which limits memory.

    Columns with whole numbers and fractions are stored as JSON, because Arrow would make fractions
    of all of them.
    """
    import pyarrow
    from datasets import Dataset, DatasetInfo, Features, Json

    batches, batch = [], []
    rich: set[str] = set()
    numbers = Numbers()
    try:
        for row in rows:
            rich |= numbers.mixed(row)
            batch.append(row)
            if len(batch) == BATCH_ROWS:
                batches.append(pyarrow.Table.from_pylist(_stored(batch, rich)))
                batch = []
        if batch:
            batches.append(pyarrow.Table.from_pylist(_stored(batch, rich)))
        batches = [_as_json(table, rich) for table in batches]
        # Later rows may have more columns than the first rows, or fractions instead of integers.
        whole = pyarrow.concat_tables(batches, promote_options="permissive") if batches else None
    except pyarrow.ArrowException as error:
        raise DataError(
            f"a column contains values of several types: {str(error).splitlines()[0]}",
            "Use one type per column",
        ) from None
    if whole is None:
        return Dataset.from_list([])
    if not rich:
        return Dataset(whole)
    features = Features({**Features.from_arrow_schema(whole.schema), **dict.fromkeys(rich, Json())})
    return Dataset(whole.cast(features.arrow_schema), info=DatasetInfo(features=features))


def _stored(batch: list[dict[str, Any]], rich: set[str]) -> list[dict[str, Any]]:
    """A batch with its rich columns as JSON text, also those that its first row lacks."""
    if not rich:
        return batch
    names = dict.fromkeys(name for row in batch for name in row)
    return [
        {name: json.dumps(row.get(name)) if name in rich else row.get(name) for name in names}
        for row in batch
    ]


def _as_json(table: Any, rich: set[str]) -> Any:
    """A table whose rich columns are JSON text, also those stored before they were."""
    import pyarrow

    for place, name in enumerate(table.column_names):
        if name in rich and not pyarrow.types.is_string(table.schema.field(name).type):
            texts = [json.dumps(value) for value in table.column(name).to_pylist()]
            table = table.set_column(place, name, pyarrow.array(texts, pyarrow.string()))
    return table
