"""Log-probabilities of completions, token by token, under a model.

Sequences are padded on the right. So positions count from 0, and no token sees padding even if
attention masks are ignored, as by Unsloth in training on a GPU.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from aligntune.errors import TrainingError
from aligntune.worker.modeling.model import plain
from aligntune.worker.modeling.token_logprobs import Tensor, token_log_probs


@dataclass(frozen=True)
class Sequences:
    """Prompts with their completions, padded on the right.

    Attributes:
        ids: (B, L) tokens, each row a prompt and its completion.
        prompts: (B,) tokens of each prompt, at least 1.
        completions: (B,) tokens of each completion, at least 1.
    """

    ids: Tensor
    prompts: Tensor
    completions: Tensor

    @classmethod
    def of(
        cls, prompts: list[list[int]], completions: list[list[int]], pad: int, device: Any
    ) -> Sequences:
        rows = [
            torch.tensor(prompt + completion)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        lengths = ([len(row) for row in each] for each in (prompts, completions))
        return cls(ids.to(device), *(torch.tensor(each, device=device) for each in lengths))

    def __getitem__(self, rows: Any) -> Sequences:
        """Some rows, cut to the longest of them."""
        prompts, completions = self.prompts[rows], self.completions[rows]
        longest = int((prompts + completions).max())
        return Sequences(self.ids[rows, :longest], prompts, completions)

    @property
    def attention_mask(self) -> Tensor:
        """(B, L), 1 at real tokens."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (places < (self.prompts + self.completions)[:, None]).long()

    @property
    def learned(self) -> Tensor:
        """(B, L), True at the tokens of the completions."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (places >= self.prompts[:, None]) & self.attention_mask.bool()

    @property
    def mask(self) -> Tensor:
        """(B, T), True at the real tokens of the completions; T is the longest one's."""
        places = torch.arange(int(self.completions.max()), device=self.ids.device)
        return places < self.completions[:, None]


@dataclass(frozen=True)
class Scored:
    """The result of a forward pass for completions of at most T tokens.

    Attributes:
        log_probs: (B, T) float32, of each token among all words at the sampling temperature.
        entropy: (B, T) float32, of the distribution each was sampled from, in nats.
        hidden: (B, T, H) last hidden states that each token was chosen from, None if not asked for.
    """

    log_probs: Tensor
    entropy: Tensor
    hidden: Tensor | None


def score(model: Any, batch: Sequences, temperature: float, hidden: bool = False) -> Scored:
    """Log-probabilities of the completions in ``batch``, read from logits, with no labels.

    With labels, Unsloth's fused loss returns no logits on a GPU. The last hidden states are
    requested and not read by a hook, because otherwise Unsloth overwrites their gradient. If the
    model supports it, logits start at the last token of the shortest prompt.

    Args:
        model: a causal language model.
        batch: B prompts and completions.
        temperature: that completions are sampled with.
        hidden: whether to return hidden states.

    Raises:
        TrainingError: the model returned no logits, or not the requested ones.
    """
    ids = batch.ids
    first = int(batch.prompts.min()) - 1
    keeps = takes_logits_to_keep(model)
    outputs = model(
        input_ids=ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        output_hidden_states=hidden,
        **({"logits_to_keep": ids.shape[1] - first} if keeps else {}),
    )
    logits = _logits(model, outputs, ids.shape[1] - (first if keeps else 0))
    logits = logits[:, (0 if keeps else first) : -1]
    log_probs, entropy = token_log_probs(logits, ids[:, first + 1 :], temperature)
    # Token c of a completion stands at prompt + c and is chosen at the position before.
    longest = int(batch.completions.max())
    places = batch.prompts[:, None] - 1 - first + torch.arange(longest, device=ids.device)
    places = places.clamp(max=log_probs.shape[1] - 1)
    states = states_at(_last_hidden(outputs)[:, first:], places) if hidden else None
    return Scored(log_probs.gather(1, places), entropy.gather(1, places), states)


def takes_logits_to_keep(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(type(plain(model)).forward).parameters


def _logits(model: Any, outputs: Any, length: int) -> Tensor:
    logits, words = outputs.logits, plain(model).config.get_text_config().vocab_size
    if not isinstance(logits, torch.Tensor) or logits.dim() != 3:
        raise TrainingError(
            "log-probabilities are computed from logits, but the model returned none",
            "With Unsloth on a GPU set UNSLOTH_RETURN_LOGITS=1 before the model is loaded",
        )
    if logits.shape[2] < words:
        raise TrainingError(
            f"logits of {words} words were expected, but the model returned {logits.shape[2]} "
            "numbers per position, probably hidden states",
            "Set UNSLOTH_RETURN_HIDDEN_STATES=0",
        )
    if logits.shape[1] != length:
        raise TrainingError(
            f"{length} logits were requested, but the model returned {logits.shape[1]}",
            "Raise training.max_length, or shorten prompts or max_completion_length: a model "
            "loaded for shorter sequences may cut them",
        )
    return logits


def _last_hidden(outputs: Any) -> Tensor:
    states = getattr(outputs, "hidden_states", None)
    if not states:
        raise TrainingError(
            "the value head needs the last hidden states, but the model returned none",
            "Set ppo.critic=model, which uses a separate critic",
        )
    return states[-1]


def states_at(states: Tensor, places: Tensor) -> Tensor:
    """(B, L, H) states at (B, T) positions: (B, T, H)."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
