"""What PPO has beside a policy: the critic, and models without dropout."""

from __future__ import annotations

from typing import Any

import torch

from aligntune.worker.modeling.generate import plain
from aligntune.worker.modeling.score import Sequences, states_at
from aligntune.worker.ppo.objective import Tensor


class Critic(torch.nn.Module):  # type: ignore[misc]
    """V of the state that each completion token is chosen in.

    The head begins at 0, as in arXiv:1909.08593: so do all values, and advantages are rewards.

    Args:
        hidden_size: H.
        body: a decoder of the critic's own, which returns ``last_hidden_state``; None for a head
            on the policy's hidden states.
    """

    def __init__(self, hidden_size: int, body: Any = None) -> None:
        super().__init__()
        self.body = body
        self.head = torch.nn.utils.skip_init(torch.nn.Linear, hidden_size, 1, dtype=torch.float32)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, batch: Sequences, hidden: Tensor | None) -> Tensor:
        """(B, T) float32 values; ``hidden`` is (B, T, H) where there is no body."""
        if self.body is not None:
            outputs = self.body(
                input_ids=batch.ids, attention_mask=batch.attention_mask, use_cache=False
            )
            longest = int(batch.completions.max())
            places = batch.prompts[:, None] - 1 + torch.arange(longest, device=batch.ids.device)
            # Past the end of a short row stands padding, which the mask leaves out.
            hidden = states_at(outputs.last_hidden_state, places.clamp(max=batch.ids.shape[1] - 1))
        with torch.autocast(self.head.weight.device.type, enabled=False):
            values: Tensor = self.head(hidden.float()).squeeze(-1)  # type: ignore[union-attr]
        return values

    def learned(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold: a body below an adapter has frozen weights too."""
        return {
            name: weight.detach()
            for name, weight in self.named_parameters()
            if weight.requires_grad
        }


def decoder(model: Any) -> Any:
    """The body of a causal language model, without its head; adapters in it stay."""
    whole = plain(model)
    return getattr(whole, whole.base_model_prefix)


def disable_dropout(model: Any) -> None:
    """Turn all dropout off for good, so that sampled and learned log-probabilities agree."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
