"""Rewards: functions and models that score completions during reinforcement learning.

The host uses :func:`check`, :func:`names` and :func:`require_columns` too: they do not import
torch, and read only the request. :func:`check_rows` reads the references in the data. :func:`build`
makes the functions that a trainer calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aligntune.errors import DataError, RewardError
from aligntune.rewards.catalog import (
    RewardSpec,
    check,
    columns,
    labels,
    make,
    names,
    require_columns,
)

__all__ = [
    "Reward",
    "RewardSpec",
    "build",
    "check",
    "check_rows",
    "columns",
    "labels",
    "names",
    "require_columns",
]

Reward = Callable[..., list[float | None]]
"""``f(prompts, completions, completion_ids, **columns)``, as TRL calls it, returns one score per
sample, or None if it does not apply: https://huggingface.co/docs/trl/grpo_trainer"""


def build(
    rewards: Sequence[RewardSpec],
    locate: Callable[[str], Path],
    device: Any = "cpu",
    *,
    find_model: Callable[[RewardSpec], Path] | None = None,
    chat: bool = False,
    tell: Callable[[RewardError], None] | None = None,
) -> list[Reward]:
    """The guarded functions of a request, in order (see :class:`.guard.Guard`).

    Args:
        rewards: the requested rewards.
        locate: maps a local path of the host to its path here.
        device: ``torch.device`` that reward models compute on.
        find_model: maps a reward model to its folder; without it, models are local paths.
        chat: whether prompts are conversations, for which a reward model needs a chat template.
        tell: reports an error if a function never returns. It is called in a separate process, and
            this process then exits with the error's code. Without it, only Python code can be
            interrupted.

    Raises:
        SpecError: a reward, file or function does not exist, or does not take an argument.
        ModelError: a reward model that cannot be used.
        RewardError: a file does not import, or the machine cannot confine code.
    """
    from aligntune.rewards.guard.guard import Guard
    from aligntune.rewards.guard.watchdog import Backstop
    from aligntune.rewards.user_function import load_function

    check(rewards)
    backstop = Backstop(tell) if tell and rewards else None
    guarded: list[Reward] = []
    for reward, label in zip(rewards, labels(rewards), strict=True):
        function: Reward
        if reward.model is not None:
            from aligntune.rewards.reward_model import load_model

            folder = find_model(reward) if find_model else locate(reward.model)
            function = load_model(folder, reward.model, device, chat, **reward.args)
        elif reward.name in names():
            function = make(reward)
            _prepare(reward)
        else:
            function = load_function(reward, locate, backstop)
        guarded.append(Guard(function, label, reward.timeout, backstop, reward.weight))
    return guarded


def check_rows(
    rewards: Sequence[RewardSpec], rows: Iterable[Mapping[str, Any]], source: str
) -> None:
    """Refuse data with a reference that a built-in does not understand, or with none at all.

    Args:
        rewards: the requested rewards.
        rows: all rows, in order.
        source: where they are from, for messages.

    Raises:
        DataError: with the number of the row, from 1.
    """
    readers = {
        label: make(reward).reads
        for reward, label in zip(rewards, labels(rewards), strict=True)
        if reward.name in names() and label in columns(rewards)
    }
    judged, count = len(readers) < len(rewards), 0
    for count, row in enumerate(rows if readers else (), start=1):
        for reads in readers.values():
            try:
                judged |= reads(row)
            except DataError as error:
                raise DataError(f"row {count} of {source}: {error.what}", error.remedy) from None
    if count and not judged:
        raise DataError(
            f"no row of {source} has a reference for {' or '.join(readers)}, so nothing can be "
            "learned",
            "Set the reward's args.column, or map one with dataset.columns",
        )


def _prepare(reward: RewardSpec) -> None:
    """Check a built-in reward now, and not at its first call."""
    match reward.name:
        case "code":
            from aligntune.rewards.sandbox.parent import require_confinement

            require_confinement()
        case "json_schema":
            from aligntune.rewards.builtin.form import schema_validator

            schema_validator(reward.args["schema"])
        case "math":
            from aligntune.rewards.builtin.mathematics import mathematician

            mathematician().start()
