"""Words: the flags by which a request is said on the command line, each declared once."""

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

SET_HELP = "Any key of the spec."


@dataclass(frozen=True)
class Flag:
    """A key of the RunSpec that has a flag of its own; every other key is reached by ``--set``."""

    name: str
    key: str
    help: str
    type: Any = str
    value: Any = None
    """What a flag without an argument sets."""
    metavar: str | None = None
    many: bool = False
    """Whether it may stand several times, which makes a list."""

    @property
    def parameter(self) -> str:
        """What click calls its value."""
        return self.name.removeprefix("--").replace("-", "_")


FLAGS = (
    Flag(
        "--algo",
        "algorithm",
        f"How to train: {', '.join(ALGORITHMS)}.",
        click.Choice(list(ALGORITHMS)),
        metavar="NAME",
    ),
    Flag("--model", "model", "Local folder or hub id of the model."),
    Flag("--dataset", "dataset", "File, folder or hub id of the data."),
    Flag(
        "--backend",
        "backend",
        "auto takes the fastest that runs here.",
        click.Choice(["auto", "trl", "unsloth"]),
    ),
    Flag("--output", "output", "Run directory; a new one below runs/ if left out.", click.Path()),
    Flag("--epochs", "training.epochs", "Passes over the data.", float),
    Flag("--max-steps", "training.max_steps", "Optimizer steps, instead of epochs.", int),
    Flag("--batch-size", "training.batch_size", "Sequences a device and step.", int),
    Flag("--lr", "training.learning_rate", "Peak learning rate.", float),
    Flag("--max-length", "training.max_length", "Tokens a sequence is cut to.", int),
    Flag("--lora-rank", "adapter.rank", "Train a LoRA adapter of this rank.", int),
    Flag(
        "--load-in-4bit", "model.quantization", "Hold the weights in 4 bits (QLoRA).", value="4bit"
    ),
    Flag(
        "--reward",
        "rewards",
        "For RL: a built-in reward, or path.py:function; NAME=WEIGHT, several times.",
        many=True,
    ),
    Flag("--reward-model", "rewards", "For RL: a reward model, folder or hub id.", many=True),
    Flag("--num-generations", "rl.num_generations", "For GRPO: completions a prompt.", int),
    Flag("--max-completion-length", "rl.max_completion_length", "For RL: tokens.", int),
    Flag("--seed", "training.seed", "Of every random choice.", int),
    Flag("--engine", "engine", "Where it runs.", click.Choice(["auto", "docker", "process"])),
    Flag(
        "--gpus",
        "gpus",
        "auto, all, a number of GPUs (0 is the CPU), or UUIDs; more than one is refused so far.",
    ),
    Flag("--image", "image", "Run this derived image instead of the pinned one."),
    Flag(
        "--pull",
        "pull",
        "When to obtain the image.",
        click.Choice(["missing", "never", "always"]),
    ),
    Flag("--strict", "strict", "A backend that cannot be had is an error.", value=True),
)


def spec_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command all by which a request is said; :func:`settings` takes what they set."""
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=SET_HELP),
        click.option(
            "-c", "--config", multiple=True, type=click.Path(path_type=Path), help="YAML spec."
        ),
    ):
        command = option(command)
    for flag in reversed(FLAGS):
        name = flag.parameter
        if flag.value is None:
            option = click.option(
                flag.name,
                name,
                type=flag.type,
                default=None,
                help=flag.help,
                metavar=flag.metavar,
                multiple=flag.many,
            )
        else:
            option = click.option(
                flag.name,
                name,
                flag_value=flag.value,
                type=type(flag.value),
                default=None,
                is_flag=True,
                help=flag.help,
            )
        command = option(command)
    return command


def settings(
    config: tuple[Path, ...], flags: dict[str, Any], assignments: tuple[str, ...]
) -> Settings:
    """Lay default, files, environment and command line over each other, in this order."""
    from aligntune.spec.layers import Layer, from_assignment, from_environment, from_file, nested
    from aligntune.spec.resolve import resolve

    layers = [from_file(path) for path in config]
    layers += from_environment(os.environ)
    rewards: list[Any] = []
    for flag in FLAGS:
        value = flags[flag.parameter]
        if flag.key == "rewards":
            rewards += [_reward(flag.name, word) for word in value or ()]
        elif value is not None:
            layers.append(Layer(flag.name, nested(flag.key, value)))
    if rewards:
        layers.append(Layer("--reward", {"rewards": rewards}))
    layers += map(from_assignment, assignments)
    return resolve(layers, Path.cwd())


def _reward(flag: str, word: str) -> dict[str, Any]:
    """``NAME`` or ``NAME=WEIGHT`` as a reward."""
    name, equals, weight = word.rpartition("=")
    value: dict[str, Any] = {"model" if flag == "--reward-model" else "name": name or word}
    if equals:
        try:
            value["weight"] = float(weight)
        except ValueError:
            raise SpecError(f"{flag} {word}: {weight!r} is no weight", "Use NAME=WEIGHT") from None
    return value
