"""The inputs of a reward: texts or conversations, and the data's other columns."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from aligntune.errors import DataError

EXCERPT = 200
"""Characters of a prompt or completion that an error shows."""

BESIDE_THE_DATA = frozenset(
    {"prompts", "completions", "completion_ids"}
    | {"environments", "log_extra", "log_metric", "trainer_state"}
)
"""What TRL passes in addition to the data's columns."""


def text_of(sample: Any) -> str:
    """The text of a prompt or completion; for a conversation, of its last message."""
    if isinstance(sample, str):
        return sample
    content = sample[-1].get("content") if sample else None
    if isinstance(content, list):  # parts, as in multi-modal templates
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def column_of(name: str, given: Mapping[str, Any]) -> Sequence[Any]:
    """One column of the data.

    Raises:
        DataError: the data has no column of this name.
    """
    if name in given:
        found: Sequence[Any] = given[name]
        return found
    others = ", ".join(sorted(given.keys() - BESIDE_THE_DATA)) or "none"
    raise DataError(
        f"a reward reads the column {name!r}, which the data does not have; it has: {others}",
        "Set the reward's argument `column`",
    )


def excerpt(sample: Any) -> str:
    """A prompt or completion for an error message: on one line, and shortened."""
    short = reprlib.Repr()
    short.maxstring = EXCERPT
    return short.repr(text_of(sample))
