"""Rewards as the worker builds them, called as TRL calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligntune.rewards import build

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Asked:
    """A RewardSpec, as far as rewards are concerned."""

    name: str | None = None
    model: str | None = None
    revision: str | None = None
    weight: float = 1.0
    timeout: float = 20.0
    args: dict[str, Any] = field(default_factory=dict)


def made(
    name: str, args: dict[str, Any] | None = None, timeout: float = 20.0
) -> Callable[..., Any]:
    (reward,) = build([Asked(name, timeout=timeout, args=args or {})], Path)
    return reward


def scores(name: str, completions: list[Any], args: dict[str, Any], **given: Any) -> Any:
    """What a built-in gives, called as TRL calls it."""
    return made(name, args)(
        prompts=["p"] * len(completions),
        completions=completions,
        completion_ids=[[1, 2, 3]] * len(completions),
        **given,
        trainer_state=None,
        log_metric=print,
    )


def score(name: str, completion: Any, args: dict[str, Any] | None = None, **given: Any) -> Any:
    return scores(name, [completion], args or {}, **{key: [one] for key, one in given.items()})[0]


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
