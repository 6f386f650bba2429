"""Log-probabilities of labels for evaluation, in training's precision and without full logits.

Float32 logits of shape (tokens, vocabulary) are the most likely cause of running out of GPU memory.
Training projects through the head one tile at a time (``trl.trainer.utils.add_fused_lm_head``) or
fuses head and loss (Unsloth on a GPU), and so does evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aligntune.worker.device import Device
from aligntune.worker.modeling.model import plain

HALVES = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class LossHead:
    """How an evaluation computes.

    Attributes:
        device: of the run, with the precision that it trains in.
        own: whether the model's forward, given labels, returns a loss and no logits.
    """

    device: Device
    own: bool

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

        Args:
            model: a causal language model, which may have an adapter.
            temperature: divisor of the logits.
        """
        if not self.fuses(model):
            with self.autocast():
                yield
            return
        from trl.trainer.utils import add_fused_lm_head

        whole = plain(model)
        before = whole.__dict__.get("forward")
        add_fused_lm_head(whole, temperature=temperature)
        try:
            with self.autocast():
                yield
        finally:
            del whole.forward
            if before is not None:
                whole.forward = before

    def fuses(self, model: Any) -> bool:
        """Whether :meth:`on` adds the head; a model with custom code may have no separate body."""
        whole = plain(model)
        return not self.own and hasattr(whole, whole.base_model_prefix)

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
        return float(model(**inputs).loss) * tokens
