"""Log-probabilities of tokens from logits, without a copy of the logits."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

Tensor: TypeAlias = Any

ROOM = 2**24
"""Logits that are converted to float32 at the same time: 64 MiB."""


class _TokenLogProbs(torch.autograd.Function):  # type: ignore[misc]
    """log softmax(logits / temperature) at the targets, a few rows at a time.

    Autograd would keep a float32 copy of all logits for the backward pass. This keeps the logits
    unchanged and one number per position, and recomputes the softmax.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        log_probs, entropies, normalizers = [], [], []
        for rows, wanted in _chunks(logits, targets):
            scaled = rows.float() / temperature
            normalizer = scaled.logsumexp(-1)
            log_probs.append(scaled.gather(-1, wanted[..., None]).squeeze(-1) - normalizer)
            expected = torch.linalg.vecdot((scaled - normalizer[..., None]).exp(), scaled)
            entropies.append(normalizer - expected)
            normalizers.append(normalizer)
        entropy = torch.cat(entropies)
        ctx.save_for_backward(logits, targets, torch.cat(normalizers))
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return torch.cat(log_probs), entropy

    @staticmethod
    def backward(ctx: Any, wanted: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, normalizers = ctx.saved_tensors
        found = torch.empty_like(logits)
        begin = 0
        for rows, chosen in _chunks(logits, targets):
            end = begin + len(rows)
            slope = wanted[begin:end, :, None] / ctx.temperature
            normalizer = normalizers[begin:end, :, None]
            gradient = (rows.float() / ctx.temperature - normalizer).exp_().mul_(-slope)
            found[begin:end] = gradient.scatter_add_(-1, chosen[..., None], slope)
            begin = end
        return found, None, None


def _chunks(logits: Tensor, targets: Tensor) -> Any:
    rows = max(1, ROOM // (logits.shape[1] * logits.shape[2]))
    return zip(logits.split(rows), targets.split(rows), strict=True)


def token_log_probs(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens, and the entropy of the distributions they come from, in nats.

    Args:
        logits: (B, T, V), any floating type; the softmax is in float32.
        targets: (B, T) token numbers.
        temperature: sampling temperature.

    Returns:
        (B, T) float32 log-probabilities, and (B, T) float32 entropies, which carry no gradient.
    """
    found: tuple[Tensor, Tensor] = _TokenLogProbs.apply(logits, targets, temperature)
    return found
