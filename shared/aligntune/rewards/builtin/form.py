"""Rewards that look at the form of a completion: a pattern, a JSON schema, a length."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from aligntune.errors import SpecError
from aligntune.rewards.inputs import text_of

FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<language>\S*)[^\n]*\n(?P<body>.*?)^[ \t]*```", re.M | re.S)
"""A fenced block of Markdown."""


def regex(*, pattern: str, search: bool = False, ignore_case: bool = False) -> Any:
    """1 where the completion matches, else 0. A dot matches a line's end, too.

    Args:
        pattern: a regular expression of Python's.
        search: it is enough that a part of the completion matches; else all of it must.
        ignore_case: whether case does not matter.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    except re.error as error:
        raise SpecError(f"pattern is no regular expression: {error}") from error
    match = compiled.search if search else compiled.fullmatch

    def regex(completions: Any, **_: Any) -> list[float | None]:
        return [float(match(text_of(completion)) is not None) for completion in completions]

    return regex


def json_schema(*, schema: dict[str, Any]) -> Any:
    """1 where the completion is JSON that is valid by a schema, else 0.

    The JSON is the last fenced block if there is one, else the whole completion.

    Args:
        schema: a JSON schema (https://json-schema.org), of draft 2020-12 unless it says another.
    """
    checker: list[Any] = []

    def validator() -> Any:
        if not checker:
            checker.append(schema_validator(schema))
        return checker[0]

    def score(text: str) -> float:
        blocks = [block["body"] for block in FENCE.finditer(text)]
        try:
            value = json.loads(blocks[-1] if blocks else text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        try:
            return float(validator().is_valid(value))
        except RecursionError:  # nested deeper than anyone means
            return 0.0

    def json_schema(completions: Any, **_: Any) -> list[float | None]:
        return [score(text_of(completion)) for completion in completions]

    return json_schema


def schema_validator(schema: dict[str, Any]) -> Any:
    """The validator of a schema, which fetches nothing.

    Raises:
        SpecError: it is no schema.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise SpecError(f"schema is no JSON schema: {error.message}") from error
    return kind(schema, registry=Registry())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def length(
    *,
    target: int | None = None,
    min: int | None = None,  # noqa: A002
    max: int | None = None,  # noqa: A002
    unit: Literal["characters", "words", "tokens"] = "tokens",
) -> Any:
    """1 where the completion is as long as asked, less the further it is off, and 0 at least.

    What is off counts as a part of the bound that is missed: 150 where 100 is the most gives 0.5.

    Args:
        target: the length that gives 1.
        min: the least length that gives 1.
        max: the greatest length that gives 1.
        unit: what is counted.
    """
    bounds = {"target": target, "min": min, "max": max}
    given = {key: value for key, value in bounds.items() if value is not None}
    if not given or (target is not None and len(given) > 1):
        raise SpecError("give either target, or min or max or both")
    for key, value in given.items():
        if value < 1:
            raise SpecError(f"{key} is {value}, and must be 1 or more")
    low, high = (target, target) if target is not None else (min, max)
    if low is not None and high is not None and low > high:
        raise SpecError(f"min is {low} and max is {high}")

    def score(size: int) -> float:
        if low is not None and size < low:
            return size / low
        if high is not None and size > high:
            over = (size - high) / high
            return 1 - over if over < 1 else 0.0
        return 1.0

    def length(completions: Any, completion_ids: Any, **_: Any) -> list[float | None]:
        if unit == "tokens":
            return [score(len(ids)) for ids in completion_ids]
        texts = [text_of(completion) for completion in completions]
        return [score(len(text if unit == "characters" else text.split())) for text in texts]

    return length
