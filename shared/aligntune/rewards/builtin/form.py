"""Rewards for the form of a completion: a pattern, a JSON schema, a length."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from aligntune.errors import SpecError
from aligntune.rewards.inputs import text_of

FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<language>\S*)[^\n]*\n(?P<body>.*?)^[ \t]*```", re.M | re.S)
"""A fenced block of Markdown."""


def regex(*, pattern: str, search: bool = False, ignore_case: bool = False) -> Any:
    """1 if the completion matches, else 0. A dot also matches a line break.

    Args:
        pattern: a Python regular expression.
        search: whether a match of a part is enough; else the whole completion must match.
        ignore_case: whether to ignore case.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    except re.error as error:
        raise SpecError(
            f"pattern is not a valid regular expression: {error}", "Fix the pattern"
        ) from error
    match = compiled.search if search else compiled.fullmatch

    def regex(completions: Any, **_: Any) -> list[float | None]:
        return [float(match(text_of(completion)) is not None) for completion in completions]

    return regex


def json_schema(*, schema: dict[str, Any]) -> Any:
    """1 if the completion is JSON that is valid under a schema, else 0.

    The JSON is the last fenced block if there is one, else the whole completion.

    Args:
        schema: a JSON schema (https://json-schema.org), draft 2020-12 unless it names another.
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
        except RecursionError:  # nested too deeply
            return 0.0

    def json_schema(completions: Any, **_: Any) -> list[float | None]:
        return [score(text_of(completion)) for completion in completions]

    return json_schema


def schema_validator(schema: dict[str, Any]) -> Any:
    """The validator of a schema, without network access.

    Raises:
        SpecError: the schema is not valid.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise SpecError(
            f"schema is not a valid JSON schema: {error.message}", "Fix the schema"
        ) from error
    return kind(schema, registry=Registry())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def length(
    *,
    target: int | None = None,
    min: int | None = None,  # noqa: A002
    max: int | None = None,  # noqa: A002
    unit: Literal["characters", "words", "tokens"] = "tokens",
) -> Any:
    """1 if the completion has the requested length, and less the further it is off; at least 0.

    The difference counts relative to the bound: a length of 150 with a maximum of 100 gives 0.5.

    Args:
        target: the length that gives 1.
        min: the least length that gives 1.
        max: the greatest length that gives 1.
        unit: the unit of length.
    """
    bounds = {"target": target, "min": min, "max": max}
    given = {key: value for key, value in bounds.items() if value is not None}
    if not given or (target is not None and len(given) > 1):
        raise SpecError("length needs either target, or min, max or both", "Set one of them")
    for key, value in given.items():
        if value < 1:
            raise SpecError(f"{key} is {value}, but must be at least 1")
    low, high = (target, target) if target is not None else (min, max)
    if low is not None and high is not None and low > high:
        raise SpecError(f"min is {low}, but max is {high}", "Set max to at least min")

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
