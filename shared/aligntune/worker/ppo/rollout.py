"""Rollouts: completions that are sampled once and used in several epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from aligntune.worker.modeling.score import Sequences
from aligntune.worker.modeling.token_logprobs import Tensor

RewardFunc = Callable[..., list[float | None]]
"""``f(prompts, completions, completion_ids, **columns)``: one reward per completion, or None."""


@dataclass(frozen=True)
class Rollout:
    """N completions of at most T tokens, with values from the time of sampling.

    Attributes:
        number: number of the rollout, from 0.
        batch: prompts and completions.
        old_log_probs, old_values, advantages, returns: (N, T) float32 each.
        order: (epochs, N), the order of rows in each epoch.
        taken: minibatches used so far.
        over: whether the rest is skipped, because the policy has moved too far.
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
        """Whether all minibatches of this many sequences are used."""
        return self.over or self.taken * minibatch >= self.order.numel()

    def rows(self, begin: int, size: int) -> Tensor:
        """Some rows in learning order, across all epochs."""
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
        """Tensors and numbers for :meth:`of_state`."""
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
        """The rollout with more minibatches used."""
        return replace(self, taken=self.taken + minibatches, over=over)


@dataclass(frozen=True)
class Sample:
    """N completions with their rewards.

    Attributes:
        rows: of the data set, with ``prompt``.
        texts: completions.
        batch: prompts and completions.
        rewards: (N, F) of F functions, NaN if a function does not apply.
        weights: (F,).
        ended: (N,), whether a completion has an end token.
    """

    rows: list[dict[str, Any]]
    texts: list[str]
    batch: Sequences
    rewards: Tensor
    weights: Tensor
    ended: Tensor

    @property
    def total(self) -> Tensor:
        """(N,) weighted sums; NaN counts as 0."""
        return (self.rewards * self.weights).nansum(1)

    def scores(self, missing_eos_penalty: float | None) -> Tensor:
        """(N,) rewards, minus the penalty for completions without an end token."""
        return self.total - (missing_eos_penalty or 0.0) * ~self.ended

    def metrics(self, functions: Sequence[RewardFunc]) -> dict[str, float]:
        """Rewards (without penalties) and lengths, under the names that TRL's GRPO logs."""
        lengths = self.batch.completions.float().cpu()
        figures = {
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
                figures |= {f"{name}/mean": float(applies.mean()), f"{name}/std": _std(applies)}
        return figures

    def shown(self, count: int) -> list[dict[str, Any]]:
        """The first few completions, as samples."""
        shown = zip(self.rows[:count], self.texts[:count], self.total.tolist(), strict=False)
        return [
            {"prompt": row["prompt"], "completion": text, "reward": reward}
            for row, text, reward in shown
        ]


def _std(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0


def prompts_of(rollout: int, size: int, rows: int, seed: int) -> list[int]:
    """The rows whose prompts a rollout uses.

    Each pass over the prompts has a new order, seeded with ``seed`` + pass. A pass is a whole
    number of rollouts; the last rollout is filled with prompts from the start of the pass.
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
    state: Any,
    figures: Mapping[str, list[float]],
) -> Tensor:
    """The reward of each completion by each function.

    Args:
        functions: F of them.
        rows: N rows with ``prompt`` and any further columns, which the functions receive too.
        texts: N completions.
        completion_ids: their tokens.
        state: the trainer's, which the functions receive as ``trainer_state``.
        figures: lists by name, which ``log_metric`` of the functions adds to.

    Returns:
        (N, F) float32, NaN where a function returned None.

    Raises:
        ValueError: a function did not return one reward per completion.
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
        returned = function(
            prompts=prompts,
            completions=completions,
            completion_ids=completion_ids,
            **columns,
            trainer_state=state,
            log_metric=lambda name, value: figures[name].append(value),
        )
        if len(returned) != len(rows):
            raise ValueError(
                f"reward {reward_name(function)} returned {len(returned)} rewards for {len(rows)} "
                "completions"
            )
        found.append([float("nan") if reward is None else float(reward) for reward in returned])
    return torch.tensor(found, dtype=torch.float32).T
