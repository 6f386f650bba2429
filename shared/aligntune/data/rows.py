"""Load the rows of a dataset in canonical form: read sources, detect formats, apply slices.

Canonical rows (:mod:`aligntune.data.formats`) are a ``datasets.Dataset`` with the columns of
their format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aligntune.data.columns import Columns
from aligntune.data.formats import FORMATS, SETTINGS, TEXTS, detect
from aligntune.data.messages import Ignored, UnusableError, is_plain
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


class Check(Protocol):
    """What else is required of every canonical row, such as that a template renders all of it."""

    def __call__(self, where: str, row: Mapping[str, Any]) -> None:
        """Check a row.

        Raises:
            AligntuneError: the row is refused; the message starts with ``where``.
        """

    def notes(self) -> tuple[str, ...]:
        """What was seen in the rows checked so far."""


def load(
    source: Source,
    split: str,
    spec: DatasetSpec,
    allowed: tuple[str, ...],
    limit: int | None,
    chat: bool,
    check: Check | None = None,
) -> Rows:
    """Read rows and convert them to canonical form.

    Args:
        source: where the rows are.
        split: name of the split, with an optional slice (``train[:10%]``).
        spec: the request, for format, columns and system prompt.
        allowed: the formats that the algorithm takes.
        limit: the most rows to return, after slicing.
        chat: whether the tokenizer has a chat template; if so, instructions become messages.
        check: applied to every row.

    Raises:
        DataError: no such split or column, a malformed or empty row, no rows, mixed formats; the
            message names file and line.
    """
    name, bracket, rest = split.partition("[")
    rows = read_rows(source, name)
    read = None if bracket else limit
    ignored = Ignored()
    format_name, canonical = canonicalise(rows, spec, allowed, chat, read, ignored, check)
    dataset = _dataset(canonical)
    if len(dataset) == 0:
        raise no_rows(source, name)
    if bracket:
        dataset = _slice(dataset, name, f"{name}[{rest}")
        if limit is not None:
            dataset = dataset.select(range(min(limit, len(dataset))))
        if len(dataset) == 0:
            raise DataError(f"{source.name}: the slice {split!r} is empty", "Use a larger slice")
    notes = (*_source_notes(source, name), *_ignored_notes(ignored))
    notes += check.notes() if check else ()
    return Rows(dataset, format_name, f"{source.name}, split {split}", notes)


def _source_notes(source: Source, split: str) -> tuple[str, ...]:
    files = left_out(source, split)
    return (f"not read: {files}",) if files else ()


def _ignored_notes(ignored: Ignored) -> tuple[str, ...]:
    """One note for the columns that are not used, and one for the keys of messages."""
    found = []
    for kind, unit in (("column", "rows"), ("message key", "messages")):
        names = {name: count for (of, name), count in ignored.items() if of == kind}
        if names:
            counted = ", ".join(
                f"{shown(name)} (in {count} {unit})" for name, count in names.items()
            )
            found.append(f"{kind}s that are not used: {shown(counted, 300)}")
    return tuple(found)


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
    ignored: Ignored | None = None,
    check: Check | None = None,
) -> tuple[str, Iterator[dict[str, Any]]]:
    """The format of the rows (of the first one, where it is not named) and the canonical rows.

    ``ignored`` receives what the rows say and nothing uses, and ``check`` sees every row.
    """
    ignored = Ignored() if ignored is None else ignored
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
    format_ = FORMATS[name]

    def canonical() -> Iterator[dict[str, Any]]:
        shape: set[str] | None = None
        columns = Columns()
        known_columns = {*mapped, *SETTINGS}
        row: Row | None = first
        count = 0
        while row is not None:
            where, values = row[0], _rename(row[1], known)
            try:
                row_values = format_.read(values, chat, ignored)
            except UnusableError as problem:
                alike = f"Every row must be {name} data like the first row" if count else ""
                remedy = problem.remedy or alike or "Fix that row"
                raise DataError(f"{where}: {problem}", remedy) from None
            # Columns for rewards may contain anything, but the first row must have them.
            free = format_.keeps_all
            if free:
                row_values = {**dict.fromkeys(mapped), **row_values}
            if free and not known_columns.issuperset(row_values):
                extra = next(key for key in row_values if key not in known_columns)
                raise DataError(
                    f"{where}: the column '{shown(extra)}' is missing in the first row",
                    "Add it to the first row, with null if it has no value",
                )
            if free:
                # Tools and template arguments are stored as JSON, so they may differ by row.
                own = {"prompt", *SETTINGS}
                others = {key: value for key, value in row_values.items() if key not in own}
                columns.require_alike(others, where)
            kinds = {
                f"{key} {type(value).__name__}"
                for key, value in row_values.items()
                if (not free or key == "prompt") and key not in SETTINGS
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
            if check is not None:
                check(where, row_values)
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
    if any(message["role"] in ("system", "developer") for message in row[key]):
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

    Two kinds of columns are stored as JSON: conversations with more than roles and contents,
    because Arrow would give every message the keys of all others, and columns with whole numbers
    and fractions, because Arrow would make fractions of all of them.
    """
    import pyarrow
    from datasets import Dataset, DatasetInfo, Features, Json

    batches, batch = [], []
    rich: set[str] = set()
    numbers = Numbers()
    try:
        for row in rows:
            rich |= {name for name in row if name not in rich and _is_rich(name, row[name])}
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


def _is_rich(name: str, value: Any) -> bool:
    if name in SETTINGS:
        return True
    return name in TEXTS and isinstance(value, list) and not is_plain(value)


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
