"""Columns of any content, which rewards read: each has one kind of value in all rows.

Rows are stored as Arrow tables. Arrow refuses two kinds of value without saying where, and gives
every object the keys of all, with nulls in place of those that it does not have.
"""

from __future__ import annotations

from typing import Any

from aligntune.data.sources import Values, kind_of
from aligntune.errors import DataError, shown

KEYS = "Give it the same keys in every row, with null for no value, or write it as JSON text"
KINDS = "Use one kind of value per column, for example text"


class Columns:
    """Remembers the kind of each column, and the row that was the first to have it."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}

    def require_alike(self, row: Values, where: str) -> None:
        """Refuse a row with another kind of value than an earlier row.

        Raises:
            DataError: it names both rows and the column, as ``meta.tags[]`` if that is nested.
        """
        for name, value in row.items():
            self._check(shown(name), value, where)

    def _check(self, column: str, value: Any, where: str) -> None:
        if value is None:
            return
        kind = _kind(value)
        known, first = self._first.setdefault(column, (kind, where))
        if kind != known:
            remedy = KEYS if isinstance(value, dict) and known.startswith("an object") else KINDS
            raise DataError(f"{where}: column {column!r} is {kind}, but {known} in {first}", remedy)
        if isinstance(value, dict):
            for key, inner in value.items():
                self._check(f"{column}.{shown(key)}", inner, where)
        elif isinstance(value, list):
            for inner in value:
                self._check(f"{column}[]", inner, where)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise DataError(
                f"{where}: column {column!r} is a whole number of more than 64 bits",
                "Write it as text",
            )


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        keys = shown(", ".join(sorted(map(str, value))))
        return f"an object with the keys {keys}" if value else "an object without keys"
    if isinstance(value, list):
        return "a list"  # an empty one too
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else kind_of(value)
