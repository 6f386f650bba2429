"""The mathematics of PPO on sequences, as functions of tensors.

Shapes: B sequences, T tokens of the longest completion, V words. A mask is True at real completion
tokens, which are the first of each row; the end-of-sequence token is one of them. Values where
the mask is False have no effect.

Papers: PPO (Schulman et al. 2017, arXiv:1707.06347), GAE (Schulman et al. 2015, arXiv:1506.02438),
PPO on language models with a KL penalty per token (Ziegler et al. 2019, arXiv:1909.08593; Ouyang et
al. 2022, arXiv:2203.02155), KL estimators (Schulman 2020, http://joschu.net/blog/kl-approx.html).
"""

from __future__ import annotations

import torch

from aligntune.worker.modeling.token_logprobs import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of (B, T) values where the mask is True, a scalar; 0 where it is nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """(B, T) values brought to mean 0 and variance 1 over the tokens where the mask is True.

    Args:
        values: (B, T).
        mask: (B, T).
        shift_mean: False leaves the mean where it was, so that rewards keep their sign.

    Returns:
        (B, T), 0 where the mask is False. The variance is the unbiased one; of a single token it is
        taken as 0.
    """
    mean = masked_mean(values, mask)
    centered = (values - mean) * mask
    variance = centered.square().sum() / (mask.sum() - 1).clamp(min=1)
    scaled = centered * torch.rsqrt(variance + 1e-8)
    return scaled if shift_mean else (scaled + mean) * mask


def kl_penalty(log_probs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """An estimate per token of KL(policy || reference), from tokens that the policy sampled.

    Args:
        log_probs: (B, T) of the sampled tokens under the policy.
        reference: (B, T) of the same tokens under the reference.
        estimator: "k1", log p - log q: unbiased, may be negative. "k3", q / p - 1 - log(q / p):
            unbiased, never negative, of lower variance.

    Returns:
        (B, T).
    """
    difference = reference - log_probs
    return -difference if estimator == "k1" else difference.expm1() - difference


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Rewards per token: the KL penalty at each, and the completion's score at the last.

    Args:
        scores: (B,) one per completion.
        kl: (B, T) estimates.
        mask: (B, T).
        kl_coef: weight of the penalty.

    Returns:
        (B, T), 0 where the mask is False.
    """
    rewards = torch.where(mask, -kl_coef * kl, torch.zeros_like(kl))
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates and the returns that the critic learns (arXiv:1506.02438).

    delta[t] = r[t] + gamma V[t + 1] - V[t], A[t] = delta[t] + gamma lam A[t + 1]. After the last
    real token there is neither a value nor an advantage. A completion that was cut at the limit
    ends there like any other, because its score is for the completion as it is.

    Args:
        rewards: (B, T).
        values: (B, T), V[t] of the state in which token t is chosen.
        mask: (B, T).
        gamma: discount.
        lam: weight of longer estimates; 1 is the whole return, 0 one step.

    Returns:
        (B, T) advantages and (B, T) returns A + V, both 0 where the mask is False.
    """
    values = torch.where(mask, values, torch.zeros_like(values))
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    deltas = torch.where(mask, rewards + gamma * following - values, torch.zeros_like(values))
    advantages = torch.empty_like(deltas)
    carried = torch.zeros_like(deltas[:, 0])
    for step in reversed(range(deltas.shape[1])):
        carried = deltas[:, step] + gamma * lam * carried  # 0 so far where the row is padding
        advantages[:, step] = carried
    return advantages, advantages + values


def policy_loss(
    log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, cliprange: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate loss (arXiv:1707.06347, equation 7), summed over real tokens.

    Args:
        log_probs: (B, T) under the policy that learns.
        old: (B, T) under the policy that sampled.
        advantages: (B, T).
        mask: (B, T).
        cliprange: how far the ratio of probabilities may go from 1.

    Returns:
        The scalar loss, and sums over real tokens: ``ratio``; ``approx_kl``, the k3 estimate of
        KL(old || new); ``clip_ratio/low_mean`` and ``/high_mean``, tokens whose gradient is cut
        off.
    """
    change = torch.where(mask, log_probs - old, torch.zeros_like(old))
    ratio = change.exp()
    clamped = ratio.clamp(1 - cliprange, 1 + cliprange)
    losses = torch.maximum(-advantages * ratio, -advantages * clamped)
    with torch.no_grad():
        low = (ratio < 1 - cliprange) & (advantages < 0) & mask
        high = (ratio > 1 + cliprange) & (advantages > 0) & mask
        figures = {
            "ratio": (ratio * mask).sum(),
            "approx_kl": ((change.expm1() - change) * mask).sum(),
            "clip_ratio/low_mean": low.sum(),
            "clip_ratio/high_mean": high.sum(),
        }
    return torch.where(mask, losses, torch.zeros_like(losses)).sum(), figures


def value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """Half the squared error, the worse of clipped and not, summed over real tokens.

    Args:
        values: (B, T) of the critic that learns.
        old: (B, T) when the rollout was made.
        returns: (B, T).
        mask: (B, T).
        cliprange: how far from ``old`` a value may go and still be rewarded for it.

    Returns:
        The scalar loss, and the number of real tokens whose gradient is cut off.
    """
    near = old + (values - old).clamp(-cliprange, cliprange)
    plain, clipped = (values - returns).square(), (near - returns).square()
    losses = torch.where(mask, torch.maximum(plain, clipped), torch.zeros_like(plain))
    return 0.5 * losses.sum(), ((clipped > plain) & mask).sum()
