"""Rewards: what is scored during reinforcement learning, and by whom.

:func:`check`, :func:`names` and :func:`columns` are for the host too: they import no torch and look
at nothing but the request. :func:`build` makes what a trainer calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aligntune.errors import RewardError
from aligntune.rewards.catalog import RewardSpec, check, columns, labels, names

__all__ = ["Reward", "RewardSpec", "build", "check", "columns", "labels", "names"]

Reward = Callable[..., list[float | None]]
"""``f(prompts, completions, completion_ids, **columns)``, as TRL calls it, gives a score a sample,
or None where it does not apply: https://huggingface.co/docs/trl/grpo_trainer"""


def build(
    rewards: Sequence[RewardSpec],
    locate: Callable[[str], Path],
    device: Any = "cpu",
    *,
    find_model: Callable[[RewardSpec], Path] | None = None,
    chat: bool = False,
    tell: Callable[[RewardError], None] | None = None,
) -> list[Reward]:
    """The functions of a request, in its order, each guarded (see :class:`.guard.Guard`).

    Args:
        rewards: what was asked for.
        locate: where a local path of the host is here.
        device: ``torch.device`` that reward models compute on.
        find_model: the folder of a reward model, for those from a hub; a local one is located.
        chat: whether prompts are conversations, which a reward model needs a chat template for.
        tell: says an error where nothing else can, because a function never returns. It is called
            in a process of its own, and this process then ends with the error's exit code. Without
            it only Python code can be interrupted.

    Raises:
        SpecError: no such reward, file or function, or an argument that it does not take.
        ModelError: a reward model that cannot be used.
        RewardError: a file that does not import, or a machine that cannot confine code.
    """
    from aligntune.rewards.catalog import make
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
        guarded.append(Guard(function, label, reward.timeout, backstop))
    return guarded


def _prepare(reward: RewardSpec) -> None:
    """Find out now what a built-in reward would else find out when it is first called."""
    match reward.name:
        case "code":
            from aligntune.rewards.sandbox.parent import require_confinement

            require_confinement()
        case "json_schema":
            from aligntune.rewards.builtin.form import schema_validator

            schema_validator(reward.args["schema"])
        case "math":
            from aligntune.rewards.builtin.answers import warm_up

            warm_up()
