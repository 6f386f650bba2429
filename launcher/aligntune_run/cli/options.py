"""The flags that describe a run on the command line, each declared once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from aligntune.algorithms import ALGORITHMS
from aligntune.errors import SpecError

if TYPE_CHECKING:
    from aligntune.spec.resolve import Settings


@dataclass(frozen=True)
class Flag:
    """A key of the RunSpec with a flag of its own. ``--set`` reaches every other key."""

    name: str
    key: str
    """The dotted key, or ``beta``, which belongs to a different section for each algorithm."""
    help: str
    type: Any = str
    value: Any = None
    """What the flag sets when it takes no argument."""
    metavar: str | None = None
    many: bool = False
    """Whether the flag can be repeated; its values make a list."""

    @property
    def parameter(self) -> str:
        """The name of its value in click."""
        return self.name.removeprefix("--").replace("-", "_")


def split_names(text: str) -> str | list[str]:
    """``q_proj,v_proj`` as a list of names; ``all-linear`` stays a word."""
    return text if text == "all-linear" else [name.strip() for name in text.split(",")]


WHAT, DATA, TRAINING, ADAPTER, REWARDS, WHERE, OUTPUT = (
    "What to train",
    "Model and data",
    "Training",
    "Adapter",
    "Rewards",
    "Where it runs",
    "Output",
)
"""Panels of ``--help``, in order."""

PANELS: dict[str, tuple[Flag, ...]] = {
    WHAT: (
        Flag(
            "--algo",
            "algorithm",
            f"Algorithm: {', '.join(ALGORITHMS)}.",
            click.Choice(list(ALGORITHMS)),
            metavar="NAME",
        ),
    ),
    DATA: (
        Flag("--model", "model", "Model: local folder, finished run or hub id."),
        Flag("--dataset", "dataset", "Training data: file, folder or hub id."),
        Flag("--eval-dataset", "dataset.eval_name", "Separate evaluation data."),
        Flag(
            "--val-fraction",
            "dataset.validation_fraction",
            "Fraction of the training rows to hold out for evaluation.",
            float,
        ),
        Flag(
            "--system-prompt",
            "dataset.system_prompt",
            "System message for conversations that have none.",
        ),
        Flag("--max-length", "training.max_length", "Truncate sequences to this many tokens.", int),
        Flag(
            "--packing",
            "training.packing",
            "Pack several rows into one sequence (SFT).",
            value=True,
        ),
    ),
    TRAINING: (
        Flag("--epochs", "training.epochs", "Passes over the data.", float),
        Flag("--max-steps", "training.max_steps", "Optimizer steps; overrides epochs.", int),
        Flag("--batch-size", "training.batch_size", "Sequences per device per step.", int),
        Flag(
            "--grad-accum",
            "training.gradient_accumulation",
            "Batches to accumulate before each optimizer step.",
            int,
        ),
        Flag("--lr", "training.learning_rate", "Peak learning rate.", float),
        Flag("--schedule", "training.schedule", "Learning-rate schedule, e.g. linear or cosine."),
        Flag("--warmup", "training.warmup", "Warm-up: steps, or a fraction below 1.", float),
        Flag(
            "--beta",
            "beta",
            "How strongly to stay near the reference model: rl.beta, or preference.beta.",
            float,
        ),
        Flag("--save-steps", "training.save_steps", "Steps between checkpoints.", int),
        Flag("--logging-steps", "training.logging_steps", "Steps between logged losses.", int),
        Flag("--seed", "training.seed", "Random seed.", int),
    ),
    ADAPTER: (
        Flag("--lora-rank", "adapter.rank", "Train a LoRA adapter of this rank.", int),
        Flag(
            "--lora-alpha",
            "adapter.alpha",
            "LoRA alpha: the update is scaled by alpha / rank.",
            float,
        ),
        Flag(
            "--lora-target",
            "adapter.targets",
            "Layers to adapt: all-linear, or names such as q_proj,v_proj.",
            split_names,
            metavar="NAMES",
        ),
        Flag(
            "--load-in-4bit",
            "model.quantization",
            "Train the adapter on 4-bit weights (QLoRA).",
            value="4bit",
        ),
    ),
    REWARDS: (
        Flag(
            "--reward",
            "rewards",
            "Built-in reward or path.py:function, optionally with =WEIGHT. Repeatable.",
            metavar="NAME",
            many=True,
        ),
        Flag("--reward-model", "rewards", "Reward model: folder or hub id.", many=True),
        Flag(
            "--num-generations",
            "rl.num_generations",
            "Completions per prompt (GRPO family, RLOO).",
            int,
        ),
        Flag(
            "--max-completion-length",
            "rl.max_completion_length",
            "Maximum tokens per completion.",
            int,
        ),
        Flag("--temperature", "rl.temperature", "Sampling temperature of completions.", float),
    ),
    WHERE: (
        Flag(
            "--backend",
            "backend",
            "auto picks the fastest that runs here.",
            click.Choice(["auto", "trl", "unsloth"]),
        ),
        Flag(
            "--strict",
            "strict",
            "Fail if --backend is unavailable, instead of falling back to TRL.",
            value=True,
        ),
        Flag(
            "--engine",
            "engine",
            "Container engine, or a process in a venv.",
            click.Choice(["auto", "docker", "process"]),
        ),
        Flag(
            "--gpus", "gpus", "auto, 0 (use the CPU), or the UUID of a GPU. One GPU per run so far."
        ),
        Flag("--image", "image", "Run this derived image instead of the pinned one."),
        Flag(
            "--pull",
            "pull",
            "When to get the image.",
            click.Choice(["missing", "never", "always"]),
        ),
    ),
    OUTPUT: (
        Flag(
            "--output",
            "output",
            "Run directory; by default a new folder in runs/.",
            click.Path(),
        ),
    ),
}

FLAGS = tuple(flag for flags in PANELS.values() for flag in flags)


def spec_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option that describes a run; :func:`settings` takes their values."""
    config, assignments = (
        click.option(
            *("-c", "--config"),
            multiple=True,
            type=click.Path(path_type=Path),
            help="Read the spec from a YAML file; flags override it.",
            panel=WHAT,
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Set any key of the spec, e.g. training.weight_decay=0.1.",
            panel=WHAT,
        ),
    )
    options = [_option(panel, flag) for panel, flags in PANELS.items() for flag in flags]
    for option in reversed([options[0], config, assignments, *options[1:]]):
        command = option(command)
    return command


def suggest_option(word: str) -> str:
    """What to write instead of an option that does not exist, as the end of a message."""
    from aligntune.spec.resolve import known_keys
    from aligntune.spec.suggest import nearest, nearest_key, other_name

    other = other_name(word)
    if other and " " in other:
        return f"; {other}"
    if not other and (near := nearest(word, [flag.name for flag in FLAGS])):
        return near
    name = word.lstrip("-").replace("-", "_")
    key, _, value = (other or nearest_key(name, known_keys()) or "").partition("=")
    flag = next((flag for flag in FLAGS if key in (flag.key, f"{flag.key}.name")), None)
    if flag and flag.value in (None, value or None):
        return f"; did you mean '{flag.name}{f' {value}' if value and not flag.value else ''}'?"
    return f"; did you mean '--set {key}={value or '...'}'?" if key else ""


METAVARS = {int: "N", float: "X"}


def _option(panel: str, flag: Flag) -> Callable[..., Any]:
    if flag.value is None:
        return click.option(
            flag.name,
            flag.parameter,
            type=flag.type,
            default=None,
            help=flag.help,
            metavar=flag.metavar or METAVARS.get(flag.type),
            multiple=flag.many,
            panel=panel,
        )
    return click.option(
        flag.name,
        flag.parameter,
        flag_value=flag.value,
        type=type(flag.value),
        default=None,
        is_flag=True,
        help=flag.help,
        panel=panel,
    )


def settings(
    config: tuple[Path, ...], flags: dict[str, Any], assignments: tuple[str, ...]
) -> Settings:
    """Merge defaults, files, environment and command line; later sources override earlier ones."""
    from aligntune.spec.layers import Layer, from_assignment, from_environment, from_file, nested
    from aligntune.spec.resolve import beta_key, resolve

    layers = [from_file(path) for path in config]
    layers += from_environment(os.environ)
    assigned = [from_assignment(text) for text in assignments]
    rewards: list[Any] = []
    for flag in FLAGS:
        value = flags[flag.parameter]
        if flag.key == "rewards":
            rewards += [_reward(flag.name, word) for word in value or ()]
        elif value is not None:
            key = beta_key([*layers, *assigned]) if flag.key == "beta" else flag.key
            layers.append(Layer(flag.name, nested(key, value)))
    if rewards:
        layers.append(Layer("--reward", {"rewards": rewards}))
    return resolve([*layers, *assigned], Path.cwd())


def _reward(flag: str, word: str) -> dict[str, Any]:
    """A reward from ``NAME`` or ``NAME=WEIGHT``."""
    name, equals, weight = word.rpartition("=")
    value: dict[str, Any] = {"model" if flag == "--reward-model" else "name": name or word}
    if equals:
        try:
            value["weight"] = float(weight)
        except ValueError:
            raise SpecError(
                f"{flag} {word}: the weight {weight!r} is not a number", "Use NAME=WEIGHT"
            ) from None
    return value


FIND_LINKS = click.option(
    "--find-links",
    multiple=True,
    metavar="PLACE",
    help="Folder or page with wheels, used to build a missing image.",
    panel=WHERE,
)
YES = click.option("--yes", is_flag=True, help="Get a missing image without asking.", panel=WHERE)
WAIT = click.option("--wait", is_flag=True, help="Wait for a GPU if all are in use.", panel=WHERE)
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Print the plan and change nothing.", panel=OUTPUT
)

HELP_OPTION = click.help_option("-h", "--help", panel=OUTPUT)


def json_option(what: str) -> Callable[..., Any]:
    """``--json``, which prints ``what`` for programs."""
    return click.option(
        "--json", "as_json", is_flag=True, help=f"Print {what} as JSON.", panel=OUTPUT
    )
