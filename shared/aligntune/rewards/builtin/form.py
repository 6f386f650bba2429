"""Rewards for the form of a completion: a pattern, a JSON schema, a length."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any, Literal

from aligntune.errors import SpecError
from aligntune.rewards.builtin.fences import fenced_blocks
from aligntune.rewards.builtin.per_sample import SECONDS, PerSample
from aligntune.rewards.inputs import text_of


def regex(
    *, pattern: str, search: bool = False, ignore_case: bool = False, timeout: float = SECONDS
) -> Any:
    """1 if the completion matches, else 0. A dot also matches a line break.

    Args:
        pattern: a Python regular expression.
        search: whether a match of a part is enough; else the whole completion must match.
        ignore_case: whether to ignore case.
        timeout: seconds per sample; a completion that takes longer does not match.
    """
    _require_time(timeout)
    try:
        compiled = re.compile(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    except re.error as error:
        raise SpecError(
            f"pattern is not a valid regular expression: {error}", "Fix the pattern"
        ) from error
    match = compiled.search if search else compiled.fullmatch

    return PerSample(lambda text: float(match(text) is not None), seconds=timeout)


def json_schema(*, schema: dict[str, Any], timeout: float = SECONDS) -> Any:
    """1 if the completion is JSON that is valid under a schema, else 0.

    The JSON is the last fenced block if there is one, else the whole completion.

    Args:
        schema: a JSON schema (https://json-schema.org), draft 2020-12 unless it names another.
        timeout: seconds per sample; a completion that takes longer is not valid.
    """
    _require_time(timeout)
    validator = cache(lambda: schema_validator(schema))

    def score(text: str) -> float:
        blocks = fenced_blocks(text)
        try:
            value = json.loads(
                blocks[-1].body if blocks else text, parse_constant=_refuse, parse_float=_finite
            )
            return float(validator().is_valid(value))
        except (ValueError, RecursionError):  # not JSON, or nested too deeply
            return 0.0

    return PerSample(score, seconds=timeout)


def _require_time(timeout: float) -> None:
    if timeout <= 0:
        raise SpecError(f"timeout is {timeout}, but must be more than 0")


def schema_validator(schema: dict[str, Any]) -> Any:
    """The validator of a schema, without network access.

    Raises:
        SpecError: the schema is not valid, or refers to something that it does not contain.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise SpecError(
            f"schema is not a valid JSON schema: {error.message}", "Fix the schema"
        ) from error
    _require_references(schema)
    exact = extend(kind, {"multipleOf": _multiple_of})  # type: ignore[no-untyped-call]
    return exact(schema, registry=Registry())


def _require_references(schema: dict[str, Any]) -> None:
    """Refuse a ``$ref`` to nothing, on which every completion would fail.

    A schema with nested ``$id`` is not checked, because those change what its references mean.
    """
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    parts = list(_parts(schema))
    if any("$id" in part for part in parts[1:]):
        return
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    base = resource.id() or ""
    resolver = Registry().with_resource(base, resource).crawl().resolver(base)
    for part in parts:
        try:
            if isinstance(part.get("$ref"), str):
                resolver.lookup(part["$ref"])
        except Unresolvable as error:
            raise SpecError(
                f"schema refers to {part['$ref']!r}, which it does not contain",
                "Fix the reference; schemas of other documents are not fetched",
            ) from error


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a schema, itself first."""
    if isinstance(node, dict):
        yield node
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for one in inner:
        yield from _parts(one)


def _multiple_of(validator: Any, factor: Any, value: Any, schema: Any) -> Iterator[Any]:
    """Exact for decimals, and for numbers of any size: 19.99 is a multiple of 0.01."""
    from jsonschema.exceptions import ValidationError

    if validator.is_type(value, "number") and Fraction(repr(value)) % Fraction(repr(factor)):
        yield ValidationError(f"{value!r} is not a multiple of {factor!r}")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text} is larger than any float64")
    return value


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
