"""Log-probabilities of labels for evaluation, in training's precision and without full logits.

Float32 logits of shape (tokens, vocabulary) are the most likely cause of running out of GPU memory.
Training projects through the head one tile at a time (``trl.trainer.utils.add_fused_lm_head``) or
fuses head and loss (Unsloth on a GPU), and so does evaluation.

The fused head multiplies the last hidden states by the output matrix, with the scales and soft caps
that it knows. A model whose head does more (RoBERTa's has a layer in front of the matrix) would be
measured wrongly, so the fused head is compared with the model's own logits before its first use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aligntune.worker.device import Device
from aligntune.worker.modeling.model import plain
from aligntune.worker.text.tokenize import IGNORED

HALVES = {"bf16": "bfloat16", "fp16": "float16"}

AGREES = 2e-4
"""Nats by which fused log-probabilities may differ from the model's own in float32."""

AGREES_IN_HALF = 0.1
"""The same for weights in half precision, which rounds logits to about two digits."""

TRIED_TOKENS = 8


@dataclass(frozen=True)
class LossHead:
    """How an evaluation computes.

    Attributes:
        device: of the run, with the precision that it trains in.
        own: whether the model's forward, given labels, returns a loss and no logits.
    """

    device: Device
    own: bool
    _right: dict[type, bool] = field(default_factory=dict, compare=False)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Training's precision.

        The cache is off: autocast would keep a half-precision copy of all float32 weights.
        """
        import torch

        half = HALVES.get(self.device.precision)
        dtype = getattr(torch, half) if half else None
        kind = "cuda" if self.device.cuda else "cpu"
        with torch.autocast(kind, dtype=dtype, enabled=half is not None, cache_enabled=False):
            yield

    @contextmanager
    def on(self, model: Any, temperature: float = 1.0) -> Iterator[None]:
        """Add TRL's fused head to ``model`` inside this context, in training's precision.

        An MoE model computes no router loss inside it.

        Args:
            model: a causal language model, which may have an adapter.
            temperature: divisor of the logits.
        """
        with without_router_loss(model), self.autocast():
            if not self.fuses(model):
                yield
                return
            with _fused(plain(model), temperature):
                yield

    def fuses(self, model: Any) -> bool:
        """Whether :meth:`on` adds the head: it does if it computes what the model computes.

        A model with custom code may have no separate body.
        """
        whole = plain(model)
        if self.own or not hasattr(whole, whole.base_model_prefix):
            return False
        kind = type(whole)
        if kind not in self._right:
            self._right[kind] = fused_difference(model) <= tolerance(whole)
        return self._right[kind]

    def log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Log-probabilities of the labels, 0 for ignored labels. Call it inside :meth:`on`.

        Args:
            model: a model that :meth:`fuses` accepts.
            inputs: ``input_ids``, ``attention_mask`` and ``labels``, each (B, L).

        Returns:
            (B, L - 1) float32, in nats.
        """
        return model(**inputs, fused_lm_head=True).log_probs

    def loss(self, model: Any, inputs: dict[str, Any], tokens: int) -> float:
        """The summed cross entropy of the labels. Call it inside :meth:`on`.

        Args:
            tokens: number of labels that are predicted.
        """
        if self.fuses(model):
            return -float(self.log_probs(model, inputs).double().sum())
        if self.own:
            return float(model(**inputs).loss) * tokens
        log_probs = own_log_probs(model, inputs["input_ids"], inputs["attention_mask"])
        learned = inputs["labels"][:, 1:] != IGNORED
        return -float(log_probs[learned].double().sum())


@contextmanager
def _fused(whole: Any, temperature: float) -> Iterator[None]:
    from trl.trainer.utils import add_fused_lm_head

    before = whole.__dict__.get("forward")
    add_fused_lm_head(whole, temperature=temperature)
    try:
        yield
    finally:
        del whole.forward
        if before is not None:
            whole.forward = before


@contextmanager
def without_router_loss(model: Any) -> Iterator[None]:
    """Keep an MoE model from adding its router's loss to its own, inside this context."""
    config = plain(model).config.get_text_config()
    before = getattr(config, "output_router_logits", False)
    if before:
        config.output_router_logits = False
    try:
        yield
    finally:
        if before:
            config.output_router_logits = before


def own_log_probs(model: Any, ids: Any, mask: Any) -> Any:
    """Log-probabilities of tokens from the model's logits: (B, L) ids give (B, L - 1), in nats."""
    from aligntune.worker.modeling.token_logprobs import token_log_probs

    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return token_log_probs(logits[:, :-1], ids[:, 1:], 1.0)[0]


def fused_difference(model: Any) -> float:
    """The largest difference between fused and own log-probabilities of a few tokens, in nats.

    Computed in the weights' precision, without autocast. Infinite if the model cannot have the
    fused head, for example because its body returns logits.
    """
    import torch

    from aligntune.worker.modeling.modes import quiet

    whole = plain(model)
    device = next(model.parameters()).device
    words = whole.config.get_text_config().vocab_size
    first = torch.arange(1, TRIED_TOKENS + 1, device=device) * 7919 % words
    inputs = {"input_ids": first[None], "attention_mask": torch.ones_like(first[None])}
    plain_precision = torch.autocast(device.type, enabled=False)
    with quiet(model), without_router_loss(model), plain_precision:
        own = own_log_probs(model, inputs["input_ids"], inputs["attention_mask"])
        try:
            with _fused(whole, 1.0):
                fused = model(**inputs, labels=first[None], fused_lm_head=True).log_probs
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError):
            return math.inf
    return float((own - fused).abs().max())


def tolerance(model: Any) -> float:
    """The difference between two ways to compute a log-probability that rounding explains."""
    import torch

    return AGREES if model.dtype in (torch.float32, torch.float64) else AGREES_IN_HALF
