"""Columns with whole numbers and fractions, in which the whole numbers must stay whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Numbers:
    """Remembers which columns have had whole numbers, and which fractions.

    Arrow would store both as fractions: a reward would compare the answer ``1`` as ``1.0``, and a
    number of 17 digits would change.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, set[type]] = {}

    def mixed(self, row: Mapping[str, Any]) -> set[str]:
        """The columns of ``row`` that have had both, in this row or an earlier one."""
        found = set()
        for name, value in row.items():
            kinds = self._kinds.setdefault(name, set())
            kinds.update(_kinds(value))
            if len(kinds) > 1:
                found.add(name)
        return found


def _kinds(value: Any) -> Iterator[type]:
    """``int`` and ``float``, as they occur in a value; true and false are no numbers."""
    if type(value) in (int, float):
        yield type(value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _kinds(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _kinds(inner)
