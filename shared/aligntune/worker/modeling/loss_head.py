"""Log-probabilities of labels for evaluation: in training's precision, without whole logits.

What (tokens, vocabulary) takes in float32 is the likeliest to run out of a GPU's memory. Training
projects through the head a tile at a time (``trl.trainer.utils.add_fused_lm_head``) or fuses head
and loss (Unsloth on a GPU), and so does evaluation.
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
        own: whether the model's own forward returns a loss and no logits where it is given labels.
    """

    device: Device
    own: bool

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Training's precision.

        Casts are not kept: autocast would hold a copy of all float32 weights in half precision.
        """
        import torch

        half = HALVES.get(self.device.precision)
        dtype = getattr(torch, half) if half else None
        kind = "cuda" if self.device.cuda else "cpu"
        with torch.autocast(kind, dtype=dtype, enabled=half is not None, cache_enabled=False):
            yield

    @contextmanager
    def on(self, model: Any, temperature: float = 1.0) -> Iterator[None]:
        """TRL's fused head on ``model`` for as long as this lasts, in training's precision.

        Args:
            model: a causal language model, which may have an adapter.
            temperature: that logits are divided by.
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
        """Whether :meth:`on` fuses: a model with code of its own may have no body apart."""
        whole = plain(model)
        return not self.own and hasattr(whole, whole.base_model_prefix)

    def log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Log-probabilities of the labels, 0 where they are ignored, inside :meth:`on`.

        Args:
            model: one for which :meth:`fuses` is true.
            inputs: ``input_ids``, ``attention_mask`` and ``labels``, each (B, L).

        Returns:
            (B, L - 1) float32, in nats.
        """
        return model(**inputs, fused_lm_head=True).log_probs

    def loss(self, model: Any, inputs: dict[str, Any], tokens: int) -> float:
        """The cross entropy of the labels, summed, inside :meth:`on`; arguments as above.

        Args:
            tokens: number of labels that are predicted.
        """
        if self.fuses(model):
            return -float(self.log_probs(model, inputs).double().sum())
        return float(model(**inputs).loss) * tokens
