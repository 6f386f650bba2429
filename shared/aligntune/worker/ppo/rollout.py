"""A rollout: completions that were sampled once and are learned from in several epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from aligntune.worker.modeling.score import Sequences
from aligntune.worker.modeling.token_logprobs import Tensor

RewardFunc = Callable[..., list[float | None]]
"""``f(prompts, completions, completion_ids, **columns)``: a reward a completion, or None."""


@dataclass(frozen=True)
class Rollout:
    """N completions and what was known of them when they were sampled, T tokens at most.

    Attributes:
        number: of this rollout in the run, from 0.
        batch: prompts and completions.
        old_log_probs, old_values, advantages, returns: (N, T) float32 each.
        order: (epochs, N), the rows of each epoch in the order they are learned in.
        taken: minibatches handed out so far.
        over: whether the rest of it is left out, as the policy has moved too far.
    """

    number: int
    batch: Sequences
    old_log_probs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    order: Tensor
    taken: int = 0
    over: bool = False

    def spent(self, minibatch: int) -> bool:
        """Whether nothing is left to learn from, in minibatches of so many sequences."""
        return self.over or self.taken * minibatch >= self.order.numel()

    def rows(self, begin: int, size: int) -> Tensor:
        """Some of the rows in the order they are learned in, all epochs after each other."""
        return self.order.flatten()[begin : begin + size]

    def micro_batch(self, begin: int, size: int) -> dict[str, Any]:
        """Rows ``begin`` to ``begin + size`` of the whole order, as a trainer's inputs."""
        rows = self.rows(begin, size)
        batch = self.batch[rows]
        longest = int(batch.completions.max())
        inputs = {
            "input_ids": batch.ids,
            "attention_mask": batch.attention_mask,
            "prompts": batch.prompts,
            "completions": batch.completions,
        }
        learned = ("old_log_probs", "old_values", "advantages", "returns")
        return inputs | {name: getattr(self, name)[rows, :longest] for name in learned}

    def state(self) -> dict[str, Any]:
        """What :meth:`of_state` makes it from again: tensors and numbers."""
        kept = {item.name: getattr(self, item.name) for item in fields(self)}
        batch = {item.name: getattr(self.batch, item.name) for item in fields(self.batch)}
        return kept | {"batch": batch}

    @classmethod
    def of_state(cls, state: dict[str, Any], device: Any) -> Rollout:
        moved = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in state.items()
        }
        batch = {name: value.to(device) for name, value in state["batch"].items()}
        return cls(**{**moved, "batch": Sequences(**batch)})

    def after(self, minibatches: int, over: bool = False) -> Rollout:
        """The same, with more of it handed out."""
        return replace(self, taken=self.taken + minibatches, over=over)


@dataclass(frozen=True)
class Sample:
    """N judged completions.

    Attributes:
        rows: of the data set, with ``prompt``.
        texts: completions.
        batch: prompts and completions.
        rewards: (N, F) of F functions, NaN where one did not apply.
        weights: (F,).
        ended: (N,), whether a completion came to its end.
    """

    rows: list[dict[str, Any]]
    texts: list[str]
    batch: Sequences
    rewards: Tensor
    weights: Tensor
    ended: Tensor

    @property
    def total(self) -> Tensor:
        """(N,) weighted sums; what does not apply counts as nothing."""
        return (self.rewards * self.weights).nansum(1)

    def scores(self, missing_eos_penalty: float | None) -> Tensor:
        """(N,) rewards, less the penalty where a completion came to no end."""
        return self.total - (missing_eos_penalty or 0.0) * ~self.ended

    def metrics(self, functions: Sequence[RewardFunc]) -> dict[str, float]:
        """Rewards (without penalties) and lengths, under the names that TRL's GRPO logs."""
        lengths = self.batch.completions.float().cpu()
        told = {
            "reward": float(self.total.mean()),
            "reward_std": _std(self.total),
            "completions/mean_length": float(lengths.mean()),
            "completions/min_length": float(lengths.min()),
            "completions/max_length": float(lengths.max()),
            "completions/clipped_ratio": 1 - float(self.ended.float().mean()),
        }
        for function, rewards in zip(functions, self.rewards.T, strict=True):
            applies = rewards[~rewards.isnan()]
            if len(applies):
                name = f"rewards/{reward_name(function)}"
                told |= {f"{name}/mean": float(applies.mean()), f"{name}/std": _std(applies)}
        return told

    def shown(self, count: int) -> list[dict[str, Any]]:
        """The first few, to be looked at."""
        shown = zip(self.rows[:count], self.texts[:count], self.total.tolist(), strict=False)
        return [
            {"prompt": row["prompt"], "completion": text, "reward": reward}
            for row, text, reward in shown
        ]


def _std(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0


def prompts_of(rollout: int, size: int, rows: int, seed: int) -> list[int]:
    """The rows whose prompts a rollout takes.

    Each pass over the prompts is in an order of its own, drawn from ``seed`` + pass. A pass is a
    whole number of rollouts: the last one is filled up with prompts from the pass's beginning.
    """
    in_pass = -(-rows // size)
    number, place = divmod(rollout, in_pass)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed + number)).tolist()
    return [order[(place * size + each) % rows] for each in range(size)]


def minibatch_order(epochs: int, rows: int, seed: int) -> Tensor:
    """(epochs, rows): an order of rows for each epoch over a rollout."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(rows, generator=generator) for _ in range(epochs)])


def reward_name(function: RewardFunc) -> str:
    return getattr(function, "__name__", type(function).__name__)


def rewards_of(
    functions: Sequence[RewardFunc],
    rows: list[dict[str, Any]],
    texts: list[str],
    completion_ids: list[list[int]],
) -> Tensor:
    """What each reward function says of each completion.

    Args:
        functions: F of them.
        rows: N rows with ``prompt`` and any further columns, which the functions are given too.
        texts: N completions.
        completion_ids: their tokens.

    Returns:
        (N, F) float32, NaN where a function said None.

    Raises:
        ValueError: a function returned another number of rewards than there are completions.
    """
    prompts = [row["prompt"] for row in rows]
    completions = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    taken = ("prompt", "completion", "completion_ids")
    columns = {name: [row[name] for row in rows] for name in rows[0] if name not in taken}
    found = []
    for function in functions:
        told = function(
            prompts=prompts, completions=completions, completion_ids=completion_ids, **columns
        )
        if len(told) != len(rows):
            raise ValueError(
                f"reward {reward_name(function)} returned {len(told)} rewards for {len(rows)} "
                "completions"
            )
        found.append([float("nan") if reward is None else float(reward) for reward in told])
    return torch.tensor(found, dtype=torch.float32).T
