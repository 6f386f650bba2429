"""From Python arguments to layers of settings, with AlignTune's names and the keys of the RunSpec.

:data:`KEYWORDS` are other names of RunSpec keys, which the keys declare. :data:`CONVERTED` are
keywords whose values need conversion. Every section of the RunSpec is a keyword too:
``training={"warmup": 10}``. Unknown keywords, and values that are set twice, are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from aligntune.api.functions import named_reward
from aligntune.errors import SpecError
from aligntune.spec.fields import marked_keys
from aligntune.spec.layers import Layer, from_environment, from_file, nested
from aligntune.spec.paths import listed
from aligntune.spec.resolve import Settings, known_keys, pick_key, resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.sections import Keyword
from aligntune.spec.suggest import nearest, other_name

STRENGTH = 3
"""A Python argument overrides files, environment and command line."""

Reward = str | Mapping[str, Any] | Callable[..., Any]
Config = str | os.PathLike[str] | Mapping[str, Any]
"""A YAML file, or its content."""


class Sections(TypedDict, total=False):
    """The keys of a :class:`~aligntune.spec.run_spec.RunSpec`, under the same names."""

    model: str | Mapping[str, Any]
    dataset: str | Mapping[str, Any]
    training: Mapping[str, Any]
    adapter: Mapping[str, Any]
    strict: bool
    output: str | os.PathLike[str] | None
    engine: str
    gpus: str | int
    image: str | None
    pull: Literal["missing", "never", "always"]
    memory: str | None
    fit: Literal["refuse", "warn"]
    trainer_args: Mapping[str, Any]
    trl: Mapping[str, Any]
    unsloth: Mapping[str, Any]


class Keywords(Sections, total=False):
    """Keywords of every trainer, besides model, data, backend and config."""

    output_dir: str | os.PathLike[str] | None
    num_epochs: float
    max_steps: int | None
    batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    max_seq_length: int | None
    max_samples: int | None
    split: str
    column_mapping: Mapping[str, str] | None
    system_prompt: str | None
    val_split_ratio: float
    use_peft: bool
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    lora_target_modules: Sequence[str] | str | None
    quantization: Mapping[str, Any] | str | None
    seed: int
    report_to: str | Sequence[str] | None


class SFTKeywords(Keywords, total=False):
    """Further keywords of supervised fine-tuning."""

    packing: bool
    completion_only_loss: bool | None
    assistant_only_loss: bool


class RLKeywords(Keywords, total=False):
    """Further keywords of learning from preferences and rewards."""

    preference: Mapping[str, Any]
    rl: Mapping[str, Any]
    ppo: Mapping[str, Any]
    rewards: Sequence[Reward] | Reward
    reward_functions: Sequence[Reward] | Reward | None
    reward_function_weights: Sequence[float] | None
    reward_model_name: str | None
    beta: float
    kl_coef: float
    cliprange: float
    num_generations: int
    max_prompt_length: int | None
    max_completion_length: int
    temperature: float


def _keywords() -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for key, mark in marked_keys(Keyword):
        names[mark.name] = (*names.get(mark.name, ()), key)
    return names


KEYWORDS: Mapping[str, tuple[str, ...]] = _keywords()
"""Keyword -> the RunSpec keys of which it sets the one that the algorithm uses."""

NEEDED = {"algorithm": "algorithm", "model_name": "model", "dataset_name": "dataset"}

REWARD_KEYWORDS = ("reward_functions", "reward_function_weights", "reward_model_name")


def settings(config: Config | None, given: Mapping[str, Any], only: str | None = None) -> Settings:
    """A valid request from Python arguments.

    Args:
        config: overrides defaults, and is overridden by everything else.
        given: keyword -> value, of the keywords that the caller passed.
        only: the only algorithm allowed.

    Raises:
        SpecError: a keyword is unknown (the message suggests a similar one), a key is set twice, or
            a value is not valid.
    """
    weaker = [*_from_config(config), *from_environment(os.environ)]
    layers = [*weaker, *python_layers(given, weaker)]
    if only:
        for layer in layers:
            if (other := layer.values.get("algorithm", only)) != only:
                raise SpecError(f"{layer.origin} sets algorithm {other}", "Use create_rl_trainer")
        layers.append(Layer("the trainer", {"algorithm": only}, STRENGTH))
    for word, key in NEEDED.items():
        if not any(layer.values.get(key) for layer in layers):
            raise SpecError(f"missing {word}", "Pass it, or set it in the config")
    return resolve(layers, Path.cwd())


def python_layers(given: Mapping[str, Any], weaker: Sequence[Layer] = ()) -> list[Layer]:
    """One layer per keyword; ``weaker`` layers may set the algorithm that ``beta`` depends on."""
    given = {name: _plain(value) for name, value in given.items()}
    own = [Layer("algorithm=", {"algorithm": given["algorithm"]})] if given.get("algorithm") else []
    layers: list[Layer] = []
    setters: dict[str, str] = {}
    for name, value in given.items():
        values = _values(name, value, given, [*weaker, *own])
        for key in _dotted(values):
            if key in setters:
                raise SpecError(
                    f"{key} is set twice: by {setters[key]} and by {name}", "Remove one of them"
                )
            setters[key] = name
        if values:
            layers.append(Layer(f"{name}=", values, STRENGTH))
    return layers


def _from_config(config: Config | None) -> Iterator[Layer]:
    if isinstance(config, Mapping):
        yield Layer("config=", _plain(config), 0)
    elif config is not None:
        yield from_file(Path(config).expanduser())


def _values(
    name: str, value: Any, given: Mapping[str, Any], layers: Sequence[Layer]
) -> dict[str, Any]:
    """The nested RunSpec values that one keyword sets; empty if it sets none."""
    if name in KEYWORDS:
        key = pick_key(KEYWORDS[name], layers)
        return nested(key, value) if value is not None or _nullable(key) else {}
    if name in CONVERTED:
        return {} if value is None else CONVERTED[name](value)
    if name in REWARD_KEYWORDS:
        first = next(
            word for word in REWARD_KEYWORDS if given.get(word) is not None or word == name
        )
        return _rewards(given) if first == name else {}
    if name == "rewards":
        return {} if value is None else {"rewards": [_reward(item) for item in listed(value)]}
    if name in RunSpec.model_fields:
        return {name: value}
    raise SpecError(f"unknown keyword {name!r}{_suggest(name)}")


def _suggest(name: str) -> str:
    for key in known_keys():
        section, _, leaf = key.rpartition(".")
        if leaf == name and section:
            return f"; did you mean {section}={{{name!r}: ...}}?"
    other = other_name(name)
    if other and " " in other:
        return f"; {other}"
    if other:
        key, _, value = other.partition("=")
        section, _, leaf = key.partition(".")
        keyword = next((word for word, sets in KEYWORDS.items() if key in sets), None)
        shown = f"{leaf!r}: {value!r}" if value else f"{leaf!r}: ..."
        return f"; did you mean {keyword or (f'{section}={{{shown}}}' if leaf else key)}?"
    words = [*KEYWORDS, *CONVERTED, *REWARD_KEYWORDS, *RunSpec.model_fields]
    return nearest(name, words)


def _nullable(key: str) -> bool:
    """Whether a key takes null, so that None is a value and not an unset keyword."""
    section, _, name = key.rpartition(".")
    model = RunSpec.model_fields[section].annotation if section else RunSpec
    fields: Mapping[str, Any] = getattr(model, "model_fields", {})
    return type(None) in get_args(fields[name].annotation)


def _plain(value: Any) -> Any:
    """Convert paths to text at every depth, as in files and records."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _dotted(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{above}{name}.")
        elif name in ("model", "dataset") and not above:
            yield f"{name}.name"
        else:
            yield above + name


def _use_peft(value: Any) -> dict[str, Any]:
    if not isinstance(value, bool):
        raise SpecError(f"use_peft must be True or False, not {value!r}")
    return nested("adapter.type", "lora" if value else "none")


def _targets(value: Any) -> dict[str, Any]:
    alone = isinstance(value, str) and value != "all-linear"
    return nested("adapter.targets", [value] if alone else value)


def _quantization(value: Any) -> dict[str, Any]:
    """``{"load_in_4bit": True}`` means NF4 with double quantization."""
    if isinstance(value, str):
        return nested("model.quantization", value)
    if not isinstance(value, Mapping):
        raise SpecError(
            f"quantization must be a mapping or text, not {value!r}", "Use {'load_in_4bit': True}"
        )
    done = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    for name, item in value.items():
        if name in ("load_in_4bit", "load_in_8bit") and isinstance(item, bool):
            continue
        if name not in done or item != done[name]:
            raise SpecError(
                f"quantization: {name}={item!r} is not supported",
                "Use {'load_in_4bit': True} (NF4, double quantization) or {'load_in_8bit': True}",
            )
    four, eight = (value.get(f"load_in_{bits}bit", False) for bits in (4, 8))
    if four and eight:
        raise SpecError(
            "quantization: load_in_4bit and load_in_8bit cannot both be set", "Remove one of them"
        )
    return nested("model.quantization", "4bit" if four else "8bit" if eight else "none")


def _columns(value: Any) -> dict[str, Any]:
    """Canonical name -> name in the data; the direction is never guessed."""
    if not isinstance(value, Mapping):
        raise SpecError(
            f"column_mapping must be a mapping, not {value!r}", "Use {'prompt': 'question'}"
        )
    return nested("dataset.columns", dict(value))


def _report_to(value: Any) -> dict[str, Any]:
    """Check the value; a run always writes TensorBoard files, and reports to no service."""
    for name in listed(value):
        if name not in ("tensorboard", "none"):
            raise SpecError(
                f"report_to={name!r} is not supported, because training has no network",
                "Remove it; losses are in events.jsonl and tensorboard/ in the run directory",
            )
    return {}


CONVERTED: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "use_peft": _use_peft,
    "lora_target_modules": _targets,
    "quantization": _quantization,
    "column_mapping": _columns,
    "report_to": _report_to,
}
"""Keyword -> conversion of its value; None is ignored."""


def _rewards(given: Mapping[str, Any]) -> dict[str, Any]:
    """One list of rewards from the three reward keywords."""
    functions, weights, model = (given.get(name) for name in REWARD_KEYWORDS)
    rewards = [_reward(function) for function in listed(functions)] if functions is not None else []
    if model is not None:
        rewards.append({"model": model})
    if weights is not None:
        numbers = listed(weights)
        if len(numbers) != len(rewards):
            raise SpecError(
                f"reward_function_weights has {len(numbers)} weights for {len(rewards)} rewards",
                "Pass one weight for each reward function, then one for reward_model_name",
            )
        twice = [reward for reward in rewards if "weight" in reward]
        if twice:
            name = twice[0].get("name") or twice[0].get("model")
            raise SpecError(
                f"the weight of the reward {name!r} is set twice: in reward_functions and by "
                "reward_function_weights",
                "Remove one of them",
            )
        rewards = [
            {**reward, "weight": number} for reward, number in zip(rewards, numbers, strict=True)
        ]
    return {"rewards": rewards} if rewards else {}


def _reward(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"name": value}
    if callable(value):
        return named_reward(value)
    if isinstance(value, Mapping):
        function, fixed = value.get("name"), value.get("args")
        if not callable(function):
            return dict(value)
        named = named_reward(function)
        args = {**named.get("args", {}), **(fixed if isinstance(fixed, Mapping) else {})}
        return {**value, **named, **({"args": args} if args else {})}
    raise SpecError(
        f"{value!r} is not a reward",
        "Pass a name, 'path.py:function', {'model': ...} or a function",
    )
