"""The mathematics of PPO against hand-worked numbers, slow loops, numpy and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from tests.containers.ppo.parts import masked, near, numeric

from aligntune.worker.modeling import token_logprobs
from aligntune.worker.ppo import objective


def check_advantages_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0], [2.0, 9.0, 9.0]])
    values = torch.tensor([[0.5, 0.4, 0.3], [0.5, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    advantages, returns = objective.advantages_and_returns(rewards, values, mask, 1.0, 0.5)
    near(advantages, [[0.025, 0.25, 0.7], [1.5, 0, 0]], 1e-6)
    near(returns, [[0.525, 0.65, 1.0], [2.0, 0, 0]], 1e-6)


def check_advantages_are_the_sum_of_the_paper() -> None:
    generator, mask = masked(6, 5)
    rewards, values = (torch.randn(6, 5, generator=generator) for _ in range(2))
    for gamma, lam in ((1.0, 0.95), (0.9, 0.5), (0.99, 1.0), (1.0, 0.0)):
        told, returns = objective.advantages_and_returns(rewards, values, mask, gamma, lam)
        for row in range(6):
            length = int(mask[row].sum())
            v = [*values[row, :length].tolist(), 0.0]
            r = rewards[row, :length].tolist()
            delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
            for t in range(length):
                wanted = sum((gamma * lam) ** k * delta[t + k] for k in range(length - t))
                near(told[row, t], wanted)
                if lam == 1:  # then returns are what came, whatever the critic thought
                    near(returns[row, t], sum(gamma**k * r[t + k] for k in range(length - t)))
    assert not told[~mask].any()
    assert not returns[~mask].any()


def check_whitening_counts_real_tokens_alone() -> None:
    generator, mask = masked(6, 5)
    values = torch.randn(6, 5, generator=generator) * 3 + 5
    real = values[mask].double().numpy()
    told = objective.whiten(values, mask)
    near(told[mask], (real - real.mean()) / real.std(ddof=1))
    assert not told[~mask].any()
    kept = objective.whiten(values, mask, shift_mean=False)
    near(kept[mask].mean(), real.mean())
    near(kept[mask].std(), 1.0)
    assert float(objective.whiten(values[:1], mask[:1])[0, 0]) == 0  # a single token


def check_kl_estimators_have_the_kl_as_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(1, 9, generator=generator).double().log_softmax(-1) for _ in range(2))
    exact = float((p.exp() * (p - q)).sum())
    for estimator in ("k1", "k3"):
        told = objective.kl_penalty(p, q, estimator)
        near((p.exp() * told).sum(), exact, 1e-9)
    assert (told >= 0).all()
    near(objective.kl_penalty(torch.tensor([-1.0]), torch.tensor([-1.5]), "k1"), [0.5])
    near(objective.kl_penalty(torch.tensor([-1.0]), torch.tensor([-1.5]), "k3"), [0.106531])


def check_rewards_by_hand() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    kl = torch.tensor([[1.0, -2.0, 3.0], [4.0, 99.0, 99.0]])
    told = objective.token_rewards(torch.tensor([10.0, 20.0]), kl, mask, 0.1)
    near(told, [[-0.1, 0.2, 9.7], [19.6, 0, 0]], 1e-6)


def check_policy_loss_by_hand() -> None:
    ratios = [1.1, 1.5, 0.5, 1.5, 0.5]
    advantages = torch.tensor([[2.0, 2.0, 2.0, -2.0, -2.0, 77.0]])
    log_probs = torch.tensor([[*map(math.log, ratios), 3.0]], requires_grad=True)
    mask = torch.tensor([[True] * 5 + [False]])
    loss, told = objective.policy_loss(log_probs, torch.zeros(1, 6), advantages, mask, 0.2)
    near(loss.detach(), -2.2 - 2.4 - 1.0 + 3.0 + 1.6)  # clipped: the second and the last
    loss.backward()
    near(log_probs.grad, [[-2.2, 0.0, -1.0, 3.0, 0.0, 0.0]])
    near(told["ratio"], sum(ratios))
    near(told["approx_kl"], sum(ratio - 1 - math.log(ratio) for ratio in ratios))
    assert (int(told["clip_ratio/low_mean"]), int(told["clip_ratio/high_mean"])) == (1, 1)


def check_value_loss_by_hand() -> None:
    values = torch.tensor([[0.1, 0.5, 0.5, 9.0]], requires_grad=True)
    old, returns = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, -1.0, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    loss, cut = objective.value_loss(values, old, returns, mask, 0.2)
    # The second went further than 0.2 towards its return, and is held to 0.2; the third away.
    near(loss.detach(), 0.5 * (0.9**2 + 0.8**2 + 1.5**2))
    loss.backward()
    near(values.grad, [[-0.9, 0.0, 1.5, 0.0]])
    assert int(cut) == 1


def check_gradients_by_finite_differences() -> None:
    generator, mask = masked(3, 4)

    def drawn() -> Any:
        return torch.randn(3, 4, generator=generator, dtype=torch.float64) * 0.5

    old, advantages, returns, at = drawn(), drawn(), drawn(), drawn()
    losses: list[Callable[[Any], Any]] = [
        lambda x: objective.policy_loss(x, old, advantages, mask, 0.2)[0],
        lambda x: objective.value_loss(x, old, returns, mask, 0.2)[0],
    ]
    for loss in losses:
        learned = at.clone().requires_grad_()
        loss(learned).backward()
        near(learned.grad, numeric(loss, at, 1e-6), 1e-6)


def check_token_log_probs_and_their_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 7, generator=generator) * 2
    targets = torch.randint(0, 7, (5, 3), generator=generator)
    weights = torch.randn(5, 3, generator=generator)
    scaled = logits.double().numpy() / 0.7
    p = numpy.exp(scaled) / numpy.exp(scaled).sum(-1, keepdims=True)
    rows, columns = numpy.indices((5, 3))

    def loss(at: Any) -> Any:
        return (token_logprobs.token_log_probs(at, targets, 0.7)[0] * weights).sum()

    wanted = -p * weights.numpy()[..., None] / 0.7
    wanted[rows, columns, targets.numpy()] += weights.numpy() / 0.7
    room = token_logprobs.ROOM
    for limit in (room, 45, 1):  # all rows at once, two at a time, one at a time
        token_logprobs.ROOM = limit
        try:
            learned = logits.clone().requires_grad_()
            told, entropy = token_logprobs.token_log_probs(learned, targets, 0.7)
            loss(learned).backward()
        finally:
            token_logprobs.ROOM = room
        near(told.detach(), numpy.log(p[rows, columns, targets.numpy()]))
        near(entropy, -(p * numpy.log(p)).sum(-1))
        near(learned.grad, wanted)
    near(wanted, numeric(loss, logits, 1e-2), 1e-3)
    half = logits.bfloat16().requires_grad_()
    told, _ = token_logprobs.token_log_probs(half, targets, 0.7)
    assert told.dtype == torch.float32
    near(
        told.detach(),
        (half.detach().double() / 0.7).log_softmax(-1).gather(-1, targets[..., None])[..., 0],
    )
