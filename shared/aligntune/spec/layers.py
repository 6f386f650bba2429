"""Layers of values: from files, the environment and assignments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aligntune.errors import SpecError
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.yaml import Loader

ENVIRONMENT_PREFIX = "ALIGNTUNE_"

NOT_SETTINGS = frozenset({"ALIGNTUNE_CACHE_DIR", "ALIGNTUNE_INPUT_ROOT", "ALIGNTUNE_PINS"})
"""Variables that configure the program and not a run."""

SHORTHANDS = {"model": "name", "dataset": "name"}
"""``model: M`` means ``model: {name: M}``."""


@dataclass(frozen=True)
class Layer:
    """Values from one source; ``origin`` is the source's name in messages.

    ``strength`` orders the kinds of source: flags have the same strength, and override files.
    """

    origin: str
    values: Mapping[str, Any]
    strength: int = 2


def parse_value(key: str, text: str) -> Any:
    """A value from an assignment or a variable, read as YAML: ``2`` is a number, ``null`` is None.

    If the key takes text, everything except ``null`` and quoted values stays text.
    """
    try:
        value = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: looks like a date
        return text
    if value is None or (key in SHORTHANDS and isinstance(value, Mapping)):
        return value
    quoted = text.strip().startswith(("'", '"'))
    return text if _takes_text(key) and not quoted else value


def from_file(path: Path) -> Layer:
    """The layer of a YAML config file.

    Raises:
        SpecError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SpecError(f"cannot read the config file {path}: {reason}") from error
    except ValueError as error:
        raise SpecError(
            f"{path}: {error}", "Quote values that look like a date or a number"
        ) from error
    except RecursionError as error:
        raise SpecError(f"{path}: nested too deeply", "Fix the YAML") from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise SpecError(f"{path}{line}: {problem}", "Fix the YAML") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise SpecError(
            f"{path} contains a {type(values).__name__}, not keys and values",
            "Write one key: value pair per line",
        )
    return Layer(str(path), values, strength=0)


def from_environment(environment: Mapping[str, str]) -> Iterator[Layer]:
    """One layer per variable: ``ALIGNTUNE_TRAINING__EPOCHS=2`` is ``training.epochs``."""
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_SETTINGS:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield Layer(f"${name}", nested(key, parse_value(key, environment[name])), 1)


def from_assignment(text: str) -> Layer:
    """The layer of one ``--set section.key=value``."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SpecError(
            f"--set {text!r} is not of the form section.key=value",
            "For example --set training.epochs=2",
        )
    key = key.strip()
    return Layer(f"--set {key}", nested(key, parse_value(key, value)))


def nested(key: str, value: Any) -> dict[str, Any]:
    """``nested("training.epochs", 2)`` is ``{"training": {"epochs": 2}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _takes_text(key: str) -> bool:
    """Whether a key takes text only, so that ``model.revision=123e4567`` is not a number."""
    section, _, name = key.rpartition(".")
    if key in SHORTHANDS or section == "dataset.columns":
        return True
    model = RunSpec.model_fields[section].annotation if section in RunSpec.model_fields else RunSpec
    fields = getattr(model, "model_fields", {})
    return name in fields and fields[name].annotation in (str, str | None)
