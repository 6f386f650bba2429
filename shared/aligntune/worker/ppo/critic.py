"""PPO's critic, and the reference of its KL penalty."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import TrainerCallback

from aligntune.worker.modeling.model import decoder, disable_dropout, plain
from aligntune.worker.modeling.reference import keep_reference
from aligntune.worker.modeling.score import Sequences, states_at
from aligntune.worker.modeling.token_logprobs import Tensor
from aligntune.worker.ppo.config import PPOConfig


class Critic(torch.nn.Module):  # type: ignore[misc]
    """The value of the state in which each completion token is chosen.

    The head starts at 0, as in arXiv:1909.08593, so all values start at 0 too.

    Args:
        hidden_size: H.
        body: a separate decoder, which returns ``last_hidden_state``; None for a head
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
            # Positions past the end of a short row are padding, which the mask excludes.
            hidden = states_at(outputs.last_hidden_state, places.clamp(max=batch.ids.shape[1] - 1))
        with torch.autocast(self.head.weight.device.type, enabled=False):
            values: Tensor = self.head(hidden.float()).squeeze(-1)  # type: ignore[union-attr]
        return values

    def learned(self) -> dict[str, Tensor]:
        """The trained weights, for a checkpoint; a body below an adapter has frozen weights too."""
        return {
            name: weight.detach()
            for name, weight in self.named_parameters()
            if weight.requires_grad
        }


def make_critic(model: Any, value_model: Any | None, args: PPOConfig) -> Critic:
    """The requested critic: a head on the policy's hidden states, or with a separate body.

    Args:
        model: the policy.
        value_model: provides the critic's body; None copies the policy's.
        args: select the kind of critic.
    """
    body = None
    if args.critic == "model":
        body = decoder(copy.deepcopy(model) if value_model is None else value_model)
        if args.disable_dropout:
            disable_dropout(body)
        if args.gradient_checkpointing:
            body.gradient_checkpointing_enable({"use_reentrant": False})
    width = plain(model).config.get_text_config().hidden_size
    critic: Critic = Critic(width, body).to(args.device)
    return critic


class CriticSteps(TrainerCallback):  # type: ignore[misc]
    """Clips and clears the critic's gradients; the trainer does so only for the policy's.

    Separate clipping prevents a critic with large errors from shrinking the policy's step.
    """

    def __init__(self, critic: Critic) -> None:
        self._critic = critic

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._critic.parameters(), args.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._critic.zero_grad()


def frozen_reference(model: Any, given: Any | None, args: PPOConfig) -> Any | None:
    """The frozen reference of the KL penalty: the given model, or a copy of the policy.

    None without a penalty, or if the policy without its adapter is the reference.
    """
    found = given
    if given is None and args.kl_coef and not hasattr(model, "disable_adapter"):
        found = copy.deepcopy(model)
    if found is None and args.kl_coef:
        keep_reference(model)
    if found is not None:
        disable_dropout(found.eval().requires_grad_(False))
        if getattr(found, "quantization_method", None) is None:
            found.to(args.device)  # quantized weights stay where they were loaded
    return found
