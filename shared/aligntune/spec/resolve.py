"""Combine sources into a RunSpec: defaults < config file < environment < command line < Python.

Every source becomes a :class:`Layer` of nested values. :func:`resolve` merges the layers, refuses
unknown keys, and records where each value came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from aligntune.algorithms import ALGORITHMS
from aligntune.errors import SpecError
from aligntune.spec.fields import spec_fields
from aligntune.spec.layers import SHORTHANDS, Layer
from aligntune.spec.paths import local_paths
from aligntune.spec.run_spec import RewardSpec, RunSpec
from aligntune.spec.suggest import nearest, nearest_key, other_name

FREE_FORM = frozenset({"trainer_args", "dataset.columns", "trl", "unsloth"})
"""Keys below which users choose the keys."""


MOST_UNKNOWN = 8
"""Unknown keys that a message names, as of a config file of another tool."""

KeyPath: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """A valid RunSpec, and the origin of each value that is not a default, by dotted key."""

    spec: RunSpec
    origins: dict[str, str]


def pick_key(keys: Sequence[str], layers: Sequence[Layer]) -> str:
    """Of several keys with the same flag or keyword, the one in a section of the algorithm."""
    named = [layer.values["algorithm"] for layer in layers if "algorithm" in layer.values]
    row = ALGORITHMS.get(str(named[-1])) if named else None
    used = [key for key in keys if row and key.partition(".")[0] in row.sections]
    return (used or keys)[-1]


def resolve(layers: Sequence[Layer], base_dir: Path | None = None) -> Settings:
    """Merge the layers, later ones on top, and validate the result.

    Args:
        layers: sources in order of precedence, the weakest first.
        base_dir: folder that relative paths start from; None leaves names unchanged, as inside a
            container, where the host's paths are mounted elsewhere.

    Raises:
        SpecError: a key is unknown (the message suggests a similar one), or a value is missing, of
            the wrong type or out of range. The message names the key and where it was set.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    strengths: dict[KeyPath, int] = {}
    for layer in layers:
        unknown: list[str] = []
        values = dict(_flatten(layer.values, RunSpec, (), layer.origin, unknown))
        if unknown:
            more = f"; and {len(unknown) - MOST_UNKNOWN} more" if unknown[MOST_UNKNOWN:] else ""
            raise SpecError("; ".join(unknown[:MOST_UNKNOWN]) + more)
        for path in _overruled(values):
            if strengths.get(path, layer.strength) < layer.strength:
                del merged[path[0]][path[1]], origins[".".join(path)], strengths[path]
        for path, value in values.items():
            _put(merged, path, value)
            origins[".".join(path)] = layer.origin
            strengths[path] = layer.strength
    _require(merged)
    try:
        spec = RunSpec.model_validate(merged if base_dir is None else local_paths(merged, base_dir))
    except ValidationError as error:
        raise SpecError(_explain(error, origins)) from None
    return Settings(spec, origins)


def known_keys() -> list[str]:
    """Every dotted key of a RunSpec, in order."""
    return [key for key, _ in spec_fields()]


def _flatten(
    values: Mapping[str, Any],
    model: type[BaseModel],
    above: KeyPath,
    origin: str,
    unknown: list[str],
) -> Iterator[tuple[KeyPath, Any]]:
    """Each value with its path of keys; a message about each unknown key is added to a list."""
    for name, value in values.items():
        path = (*above, str(name))
        key = ".".join(path)
        field = model.model_fields.get(str(name))
        if field is None:
            unknown.append(f"unknown key {key!r} (from {origin}){_suggest(path, model)}")
            continue
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            if key in SHORTHANDS and not isinstance(value, Mapping):
                value = {SHORTHANDS[key]: value}
            if value is None:
                continue  # ``training:`` with every line below it commented out
            if not isinstance(value, Mapping):
                raise SpecError(f"{key} (from {origin}) is a section of keys, not {value!r}")
            yield from _flatten(value, section, path, origin, unknown)
        elif key in FREE_FORM and isinstance(value, Mapping):
            for inner, item in value.items():
                yield (*path, str(inner)), item
        else:
            yield path, value


def _overruled(values: Mapping[KeyPath, Any]) -> Iterator[KeyPath]:
    """Keys of weaker layers that this layer overrides without naming them.

    Every ``spec.yaml`` names all keys, and ``-c spec.yaml --epochs 1`` or ``--lora-rank 8`` must
    take effect: epochs override max_steps, and a key of the adapter overrides ``type: none``.
    """
    if ("training", "epochs") in values and ("training", "max_steps") not in values:
        yield ("training", "max_steps")
    quantized = values.get(("model", "quantization"), "none") != "none"
    of_adapter = any(path[0] == "adapter" for path in values)
    if (quantized or of_adapter) and ("adapter", "type") not in values:
        yield ("adapter", "type")


def _suggest(path: KeyPath, model: type[BaseModel]) -> str:
    word, keys = path[-1], known_keys()
    siblings = [".".join((*path[:-1], name)) for name in model.model_fields]
    same = next((key for key in keys if key.rpartition(".")[2] == word), None)
    other = None if same else other_name(word)
    if other and " " in other:
        return f"; {other}"
    found = same or other or nearest_key(word, siblings) or nearest_key(word, keys)
    return f"; did you mean {found!r}?" if found else ""


def _put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        branch = tree.get(part)
        if not isinstance(branch, dict):
            branch = tree[part] = {}
        tree = branch
    tree[path[-1]] = value


def _require(values: Mapping[str, Any]) -> None:
    """Report missing values by their flags, before pydantic reports them by their fields."""
    missing = [
        flag
        for flag, given in (
            ("--algo", values.get("algorithm")),
            ("--model", values.get("model", {}).get("name")),
            ("--dataset", values.get("dataset", {}).get("name")),
        )
        if given in (None, "")
    ]
    if missing:
        raise SpecError(
            f"missing {', '.join(missing)}",
            f"For example: aligntune-run --algo {next(iter(ALGORITHMS))} --model M --dataset D",
        )


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    problems = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        while key and key not in origins and "." in key:
            key = key.rpartition(".")[0]
        origin = f" (from {origins[key]})" if key in origins else ""
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":  # within a reward: all else is seen before
            known = list(RewardSpec.model_fields)
            unknown = str(problem["loc"][-1])
            problems.append(f"{key}{origin}: unknown key {unknown!r}{nearest(unknown, known)}")
            continue
        given = problem["input"]
        shown = f", not {given!r}" if key and isinstance(given, str | int | float) else ""
        problems.append(f"{key}{origin}: {message}{shown}" if key else message)
    return "; ".join(dict.fromkeys(problems))
