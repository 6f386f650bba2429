"""The options that describe a run on the command line, made from the flags of the spec's keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from aligntune.algorithms import ALGORITHMS
from aligntune.errors import SpecError
from aligntune.spec.flags import OUTPUT, PANELS, WHAT, WHERE, Flag, FlaggedKey, read_flags
from aligntune_run.engines.registry import ENGINES

if TYPE_CHECKING:
    from aligntune.spec.resolve import Settings


def split_names(text: str) -> str | list[str]:
    """``q_proj,v_proj`` as a list of names; ``all-linear`` stays a word."""
    return text if text == "all-linear" else [name.strip() for name in text.split(",")]


NAMES = {"algorithm": tuple(ALGORITHMS), "engine": ("auto", *ENGINES)}
"""Keys whose values are the names in a table."""

FLAGS = tuple(sorted(read_flags(), key=lambda flagged: PANELS.index(flagged.flag.panel)))
"""Every flag of the spec, panel by panel."""


def parameter(flag: Flag) -> str:
    """The name of a flag's value in click."""
    return flag.name.removeprefix("--").replace("-", "_")


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
    options = [_option(flagged) for flagged in FLAGS]
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
    flags = {key.removesuffix(".name"): flagged.flag for flagged in FLAGS for key in flagged.keys}
    if not other and (near := nearest(word, [flag.name for flag in flags.values()])):
        return near
    name = word.lstrip("-").replace("-", "_")
    key, _, value = (other or nearest_key(name, known_keys()) or "").partition("=")
    flag = flags.get(key.removesuffix(".name"))
    if flag and flag.value in (None, value or None):
        return f"; did you mean '{flag.name}{f' {value}' if value and not flag.value else ''}'?"
    return f"; did you mean '--set {key}={value or '...'}'?" if key else ""


TYPES: dict[str, tuple[Any, str | None]] = {
    "PositiveInt": (int, "N"),
    "int": (int, "N"),
    "float": (float, "X"),
    "Fraction": (float, "X"),
    "Literal['all-linear'] | list[str]": (split_names, None),
}
"""Type of a key -> type of its flag's argument, and what stands for it; all else is text."""


def _option(flagged: FlaggedKey) -> Callable[..., Any]:
    flag, of_type = flagged.flag, flagged.type.removesuffix(" | None")
    if flag.value is not None or of_type == "bool":
        value = True if flag.value is None else flag.value
        return click.option(
            flag.name,
            parameter(flag),
            flag_value=value,
            type=type(value),
            default=None,
            is_flag=True,
            help=flag.help,
            panel=flag.panel,
        )
    choices = NAMES.get(flagged.keys[0], flagged.choices)
    takes, metavar = TYPES.get(of_type, (str, None))
    return click.option(
        flag.name,
        parameter(flag),
        type=click.Choice(choices) if choices else takes,
        default=None,
        help=flag.help.format(names=", ".join(choices)),
        metavar=flag.metavar or metavar,
        multiple=flag.many,
        panel=flag.panel,
    )


def settings(
    config: tuple[Path, ...], flags: dict[str, Any], assignments: tuple[str, ...]
) -> Settings:
    """Merge defaults, files, environment and command line; later sources override earlier ones."""
    from aligntune.spec.layers import Layer, from_assignment, from_environment, from_file, nested
    from aligntune.spec.resolve import pick_key, resolve

    layers = [from_file(path) for path in config]
    layers += from_environment(os.environ)
    assigned = [from_assignment(text) for text in assignments]
    rewards: list[Any] = []
    for flagged in FLAGS:
        name, value = flagged.flag.name, flags[parameter(flagged.flag)]
        if flagged.keys == ("rewards",):
            rewards += [_reward(name, word) for word in value or ()]
        elif value is not None:
            key = pick_key(flagged.keys, [*layers, *assigned])
            layers.append(Layer(name, nested(key, value)))
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
