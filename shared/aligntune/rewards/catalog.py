"""The built-in rewards, their arguments, and checks of a request."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from aligntune.errors import DataError, SpecError, shown
from aligntune.rewards.builtin.answers import exact_match, math_answer, numeric
from aligntune.rewards.builtin.code import code
from aligntune.rewards.builtin.form import json_schema, length, regex

FUNCTION = re.compile(r"(?P<path>/.*):(?P<function>[^\W\d]\w*)", re.DOTALL)
"""``/path/to/file.py:function``."""


class RewardSpec(Protocol):
    """A requested reward: ``aligntune.spec.run_spec.RewardSpec``."""

    @property
    def name(self) -> str | None:
        """A built-in's name, or ``/path/to/file.py:function``."""

    @property
    def model(self) -> str | None:
        """Folder or hub id of a sequence classification model, instead of ``name``."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit of a hub id."""

    @property
    def weight(self) -> float:
        """The factor that the trainer multiplies the score by."""

    @property
    def timeout(self) -> float:
        """Seconds that one call (a whole batch) may take."""

    @property
    def args(self) -> Mapping[str, Any]:
        """The reward's arguments."""


BUILT_IN: dict[str, Callable[..., Any]] = {
    "exact_match": exact_match,
    "numeric": numeric,
    "math": math_answer,
    "regex": regex,
    "json_schema": json_schema,
    "length": length,
    "code": code,
}
"""Each makes a reward from keyword arguments, without heavy imports."""


def model(*, batch_size: int = 8, max_length: int | None = None) -> None:
    """The arguments of a reward model, see :mod:`aligntune.rewards.reward_model`.

    Args:
        batch_size: samples scored at once.
        max_length: samples lose their beginning beyond this many tokens; null is the model's limit.
    """
    for key, value in (("batch_size", batch_size), ("max_length", max_length)):
        if value is not None and value < 1:
            raise SpecError(f"{key} is {value}, but must be at least 1")


def names() -> tuple[str, ...]:
    """The built-in rewards."""
    return tuple(BUILT_IN)


def labels(rewards: Sequence[RewardSpec]) -> list[str]:
    """The name of each reward in logs; the second use of a name is ``name_2``."""
    found: list[str] = []
    for reward in rewards:
        plain = _plain_label(reward)
        label, count = plain, 1
        while label in found:
            count += 1
            label = f"{plain}_{count}"
        found.append(label)
    return found


def _plain_label(reward: RewardSpec) -> str:
    if reward.model is not None:
        return PurePosixPath(reward.model).name
    parts = FUNCTION.fullmatch(reward.name or "")
    return parts["function"] if parts else str(reward.name)


def columns(rewards: Sequence[RewardSpec]) -> dict[str, str]:
    """The column that each reward reads, by label, for the rewards known to read one."""
    found = {}
    for reward, label in zip(rewards, labels(rewards), strict=True):
        parameter = inspect.signature(_factory(reward)).parameters.get("column")
        if parameter is not None:
            found[label] = str(reward.args.get("column", parameter.default))
    return found


def require_columns(rewards: Sequence[RewardSpec], there: Sequence[str], source: str) -> None:
    """Refuse data without a column that a reward is known to read.

    Raises:
        DataError: it names the reward, the column and those that ``source`` has.
    """
    others = [name for name in there if name != "prompt"]
    for label, column in columns(rewards).items():
        if column not in there:
            raise DataError(
                f"reward {label} reads the column {column!r}, which {source} lacks; it has: "
                f"{shown(', '.join(others), 200) or 'only the prompt'}",
                "Set the reward's args.column, or map one with dataset.columns",
            )


def check(rewards: Sequence[RewardSpec]) -> None:
    """Refuse unknown rewards, and arguments that a reward does not take.

    Reads only the request; custom files and models are not opened.

    Raises:
        SpecError: with the reward, and the argument if that is wrong.
    """
    for reward in rewards:
        if (reward.name is None) == (reward.model is None):
            raise SpecError("a reward needs a name or a model, not both", "Set one of the two")
        if reward.name is not None and reward.name not in BUILT_IN:
            if not FUNCTION.fullmatch(reward.name):
                raise _no_such(reward.name)
        else:
            make(reward)


def make(reward: RewardSpec) -> Any:
    """The function of a built-in reward; for a reward model only its arguments are checked."""
    factory = _factory(reward)
    what = f"reward {_plain_label(reward)}"
    known = inspect.signature(factory).parameters
    hints = get_type_hints(factory)
    for key, value in reward.args.items():
        if key not in known:
            from aligntune.spec.suggest import nearest

            takes = f"It takes {', '.join(known)}"
            raise SpecError(f"{what} has no argument {key!r}{nearest(key, list(known))}", takes)
        try:
            TypeAdapter(hints[key], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise SpecError(f"{what}: {key} is {value!r}. {said}") from None
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in reward.args:
            raise SpecError(
                f"{what} needs the argument {key!r}", f"Set it in args, as args: {{{key}: ...}}"
            )
    try:
        return factory(**reward.args)
    except SpecError as error:
        raise SpecError(f"{what}: {error.what}", error.remedy) from error


def _factory(reward: RewardSpec) -> Callable[..., Any]:
    if reward.model is not None:
        return model
    return BUILT_IN.get(reward.name or "", _user_function)


def _user_function() -> None:
    """A custom function, whose arguments are unknown before it is loaded."""


def _no_such(name: str) -> SpecError:
    from aligntune.spec.suggest import nearest

    known = ", ".join(BUILT_IN)
    if ".py" in name:
        return SpecError(
            f"{name} does not name a function", "Write it as /path/to/file.py:function_name"
        )
    return SpecError(
        f"unknown reward {name!r}{nearest(name, list(BUILT_IN))}",
        f"Use one of {known}, or your own as /path/to/file.py:function_name",
    )
