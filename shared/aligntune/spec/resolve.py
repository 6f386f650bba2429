"""From words to a RunSpec: defaults < config file < environment < command line < Python argument.

Every source becomes a :class:`Layer` of nested values; :func:`resolve` lays them over each other,
refuses keys it does not know, and remembers where each value came from.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel, ValidationError

from aligntune.algorithms import ALGORITHMS
from aligntune.errors import AligntuneError, DataError, ModelError, SpecError
from aligntune.record.run_dir import RECORD, finished_model
from aligntune.spec.run_spec import YAML_FLOAT, RewardSpec, RunSpec

ENVIRONMENT_PREFIX = "ALIGNTUNE_"
NOT_SETTINGS = frozenset(
    {"ALIGNTUNE_CACHE_DIR", "ALIGNTUNE_INPUT_ROOT", "ALIGNTUNE_PINS", "ALIGNTUNE_BASE"}
)
"""Variables of ours that configure the program rather than a run."""

FREE_FORM = frozenset({"trainer_args", "dataset.columns", "trl", "unsloth"})
"""Keys whose own keys are the user's."""

PATH_KEYS: tuple[tuple[str, str, type[AligntuneError] | None], ...] = (
    ("model", "name", ModelError),
    ("model", "chat_template", None),
    ("dataset", "name", DataError),
    ("dataset", "eval_name", DataError),
    ("adapter", "path", ModelError),
)
"""Keys whose value may be a local path, with the error where it is one and is missing; where there
is no error class of its own, the value can be nothing else than a path."""

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

SHORTHANDS = {"model": "name", "dataset": "name"}
"""``model: M`` means ``model: {name: M}``."""


KeyPath: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Values from one source; ``origin`` is what the user would call that source.

    ``strength`` orders the kinds of source: what two flags say together is said at once, while a
    flag is a later word than a file.
    """

    origin: str
    values: Mapping[str, Any]
    strength: int = 2


@dataclass(frozen=True)
class Settings:
    """A valid RunSpec, and for each dotted key the origin of its value (defaults are left out)."""

    spec: RunSpec
    origins: dict[str, str]


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-4`` as a number, as YAML 1.2 does, and refuses repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            # Only what is written here can stand twice: what ``<<`` merges in may be replaced.
            key = key_node.value
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", YAML_FLOAT, list("-+0123456789"))


def parse_value(key: str, text: str) -> Any:
    """A value from an assignment or a variable: YAML, so that ``2`` is a number, ``null`` nothing.

    Where the key takes text, ``2`` is text too, and so is all else but ``null`` and what is quoted.
    """
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: like a date, and none
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
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SpecError(f"cannot read the config file {path}: {reason}") from error
    except ValueError as error:
        raise SpecError(f"{path}: {error}", "Quote what looks like a date or a number") from error
    except RecursionError as error:
        raise SpecError(f"{path}: nested too deep", "Mend the YAML") from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise SpecError(f"{path}{line}: {problem}", "Mend the YAML") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise SpecError(f"{path} holds a {type(values).__name__}, not keys and values")
    return Layer(str(path), values, strength=0)


def from_environment(environment: Mapping[str, str]) -> Iterator[Layer]:
    """One layer a variable: ``ALIGNTUNE_TRAINING__EPOCHS=2`` is ``training.epochs``."""
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_SETTINGS:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield Layer(f"${name}", nested(key, parse_value(key, environment[name])), 1)


def from_assignment(text: str) -> Layer:
    """The layer of one ``--set section.key=value``."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {text!r} is not of the form section.key=value")
    key = key.strip()
    return Layer(f"--set {key}", nested(key, parse_value(key, value)))


def nested(key: str, value: Any) -> dict[str, Any]:
    """``nested("training.epochs", 2)`` is ``{"training": {"epochs": 2}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def beta_key(layers: Sequence[Layer]) -> str:
    """The key that ``beta`` means: of the section that the algorithm has."""
    named = [layer.values["algorithm"] for layer in layers if "algorithm" in layer.values]
    row = ALGORITHMS.get(str(named[-1])) if named else None
    return "preference.beta" if row and "preference" in row.sections else "rl.beta"


def resolve(layers: Sequence[Layer], base_dir: Path | None = None) -> Settings:
    """Lay the layers over each other, later ones on top, and validate the result.

    Args:
        layers: sources in order of precedence, the weakest first.
        base_dir: folder that relative local paths are relative to; None leaves names as they are,
            as inside a container, where the host's paths are elsewhere.

    Raises:
        SpecError: a key is unknown (the nearest known one is named), a value is missing, of the
            wrong type or out of range; the message names the key and where it was set.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    strengths: dict[KeyPath, int] = {}
    for layer in layers:
        values = dict(_flatten(layer.values, RunSpec, (), layer.origin))
        for path in _overruled(values):
            if strengths.get(path, layer.strength) < layer.strength:
                del merged[path[0]][path[1]], origins[".".join(path)], strengths[path]
        for path, value in values.items():
            _put(merged, path, value)
            origins[".".join(path)] = layer.origin
            strengths[path] = layer.strength
    _require(merged)
    try:
        spec = RunSpec.model_validate(
            merged if base_dir is None else _local_paths(merged, base_dir)
        )
    except ValidationError as error:
        raise SpecError(_explain(error, origins)) from None
    return Settings(spec, origins)


def known_keys(model: type[BaseModel] = RunSpec, prefix: str = "") -> list[str]:
    """Every dotted key of a RunSpec, in order."""
    keys = []
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += known_keys(section, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _takes_text(key: str) -> bool:
    """Whether a key's value can only be text, so that ``model.revision=123e4567`` is no number."""
    section, _, name = key.rpartition(".")
    if key in SHORTHANDS or section == "dataset.columns":
        return True
    model = RunSpec.model_fields[section].annotation if section in RunSpec.model_fields else RunSpec
    fields = getattr(model, "model_fields", {})
    return name in fields and fields[name].annotation in (str, str | None)


def nearest(word: str, known: Sequence[str]) -> str:
    """`` Did you mean 'x'?``, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _flatten(
    values: Mapping[str, Any], model: type[BaseModel], above: KeyPath, origin: str
) -> Iterator[tuple[KeyPath, Any]]:
    """Each value with its path of keys; a key that the model does not have is an error."""
    for name, value in values.items():
        path = (*above, str(name))
        key = ".".join(path)
        field = model.model_fields.get(str(name))
        if field is None:
            raise SpecError(f"unknown key {key!r} (from {origin}){_suggest(path, model)}")
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            if key in SHORTHANDS and not isinstance(value, Mapping):
                value = {SHORTHANDS[key]: value}
            if value is None:
                continue  # ``training:`` with every line below it commented out
            if not isinstance(value, Mapping):
                raise SpecError(f"{key} (from {origin}) is a section of keys, not {value!r}")
            yield from _flatten(value, section, path, origin)
        elif key in FREE_FORM and isinstance(value, Mapping):
            for inner, item in value.items():
                yield (*path, str(inner)), item
        else:
            yield path, value


def _overruled(values: Mapping[KeyPath, Any]) -> Iterator[KeyPath]:
    """Keys of weaker layers that would silence what this layer says.

    Every ``spec.yaml`` names all keys, and ``-c spec.yaml --epochs 1`` or ``--lora-rank 8`` has to
    do what it says: steps yield to epochs, and having no adapter to a word about adapters.
    """
    if ("training", "epochs") in values and ("training", "max_steps") not in values:
        yield ("training", "max_steps")
    quantized = values.get(("model", "quantization"), "none") != "none"
    of_adapter = any(path[0] == "adapter" for path in values)
    if (quantized or of_adapter) and ("adapter", "type") not in values:
        yield ("adapter", "type")


def _suggest(path: KeyPath, model: type[BaseModel]) -> str:
    same_leaf = [known for known in known_keys() if known.rpartition(".")[2] == path[-1]]
    if same_leaf:
        return f"; did you mean {same_leaf[0]!r}?"
    siblings = [".".join((*path[:-1], name)) for name in model.model_fields]
    return nearest(".".join(path), siblings) or nearest(".".join(path), known_keys())


def _put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        branch = tree.get(part)
        if not isinstance(branch, dict):
            branch = tree[part] = {}
        tree = branch
    tree[path[-1]] = value


def _require(values: Mapping[str, Any]) -> None:
    """Name what is missing in the user's words before pydantic names it in its own."""
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


def _local_paths(values: dict[str, Any], base_dir: Path) -> dict[str, Any]:
    """Names of existing files and folders made absolute, so that they mean the same everywhere."""
    for section, key, kind in PATH_KEYS:
        branch = values.get(section)
        if isinstance(branch, dict) and isinstance(branch.get(key), str):
            branch[key] = local_name(branch[key], base_dir, section, key, kind)
    if "rewards" in values:
        values["rewards"] = [_local_reward(one, base_dir) for one in listed(values["rewards"])]
    output = values.get("output")
    if isinstance(output, str):
        values["output"] = os.path.normpath(base_dir / os.path.expanduser(output))
    _go_on_from_run(values)
    return values


def local_name(
    name: str, base_dir: Path, section: str, key: str, kind: type[AligntuneError] | None
) -> str:
    """``name`` as the absolute path of what it names, or as it is where that is a hub id.

    Raises:
        AligntuneError: of class ``kind``: it can only have meant a file or folder, and is missing.
    """
    path = _absolute(name, base_dir)
    if os.path.exists(path):  # unlike Path.exists, no exception below an unreadable folder
        return str(path)
    if kind is not None and (looks_like_path(name) or not HUB_ID.fullmatch(name)):
        raise kind(f"no such {section}: {name}", f"Looked for {path}")
    if kind is None:
        raise SpecError(f"{section}.{key}: no such file: {name}", f"Looked for {path}")
    return name


def _local_reward(reward: Any, base_dir: Path) -> Any:
    """A reward whose file or model is named by its absolute path."""
    if isinstance(reward, str):
        reward = {"name": reward}
    if not isinstance(reward, Mapping):
        return reward  # which is refused with the reason, as every value of a wrong type
    name, model = reward.get("name"), reward.get("model")
    if isinstance(name, str) and ":" in name:
        file, _, function = name.rpartition(":")
        path = _absolute(file, base_dir)
        if not os.path.isfile(path):
            raise SpecError(f"reward {name}: no such file: {file}", f"Looked for {path}")
        return {**reward, "name": f"{path}:{function}"}
    if isinstance(model, str):
        named = local_name(model, base_dir, "reward model", "model", ModelError)
        made = finished_model(Path(named)) if named != model or os.path.isabs(model) else None
        return {**reward, "model": str(made or named)}
    return reward


def listed(value: Any) -> list[Any]:
    """Rewards as a list, of which one alone need not be written as such."""
    if isinstance(value, str | Mapping):
        return [value]
    return list(value) if isinstance(value, list | tuple) else [value]


def _go_on_from_run(values: dict[str, Any]) -> None:
    """A run named as the model is what came out of it: its weights, or its base and adapter."""
    model = values["model"]
    run = Path(model["name"])
    if not run.is_absolute() or not os.path.isfile(run / RECORD):
        return
    made = finished_model(run)
    if made is None:
        raise ModelError(
            f"{run} is a run that has no model yet", f"aligntune-run --resume {run} goes on with it"
        )
    try:
        adapter = json.loads((made / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        model["name"] = str(made)
        return
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {made / 'adapter_config.json'}: {error}") from error
    model["name"] = adapter["base_model_name_or_path"]
    if adapter.get("revision") and "revision" not in model:
        model["revision"] = adapter["revision"]
    values["adapter"] = {"path": str(made), "type": "lora", **(values.get("adapter") or {})}


def _absolute(name: str, base_dir: Path) -> Path:
    return Path(os.path.normpath(base_dir / os.path.expanduser(name)))


def looks_like_path(name: str) -> bool:
    """Whether the user can only have meant a file or folder, as no hub id looks like this."""
    return name.startswith(("/", "./", "../", "~")) or name.lower().endswith(DATA_SUFFIXES)


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
