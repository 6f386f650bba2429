"""Evaluation, the same on every backend: of exactly the weights that a run saves, computed in the
precision that it trains in (:mod:`aligntune.training.loss_head`).

What is measured is the family's own business (:mod:`aligntune.training.families`); here is what
they share. The trainers' own evaluations average the means of batches, so that short rows weigh
more the fewer they are with; these weigh every token, pair or completion the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligntune.errors import DataError, TrainingError
from aligntune.training.tokenization import IGNORED

if TYPE_CHECKING:
    from aligntune.training.loss_head import LossHead

Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Measurement:
    """Figures by name, and for whoever reads them a few samples of what they are about."""

    metrics: Metrics
    samples: tuple[dict[str, Any], ...] = ()


Measure = Callable[[Any, Any], Measurement]
"""From a model and encoded rows to figures."""


def measured(trainer: type[Any], measure: Measure) -> type[Any]:
    """``trainer`` with an ``evaluate`` that measures as we do, while training as at the end."""

    class Measured(trainer):  # type: ignore[misc]
        def evaluate(
            self,
            eval_dataset: Any = None,
            ignore_keys: list[str] | None = None,
            metric_key_prefix: str = "eval",
        ) -> Metrics:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            found = measure(self.model, rows)
            best = self.args.metric_for_best_model
            if self.args.load_best_model_at_end and found.metrics.get(best, 0) is None:
                raise DataError(
                    f"the evaluation rows tell no {best}, by which the best checkpoint is chosen",
                    "Leave out trainer_args.load_best_model_at_end, or use other rows",
                )
            metrics = {f"{metric_key_prefix}_{name}": it for name, it in found.metrics.items()}
            self.log({name: value for name, value in metrics.items() if value is not None})
            self.control: Any = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

    Measured.__name__ = trainer.__name__
    return Measured


def token_loss(model: Any, batches: Iterable[dict[str, Any]], head: LossHead) -> Metrics:
    """The mean cross entropy of ``model`` over every learned token of ``batches``, in nats.

    Args:
        model: a causal language model.
        batches: ``input_ids``, ``attention_mask`` and ``labels``, each (batch, length).
        head: computes the loss without whole logits.

    Raises:
        TrainingError: the loss is not a finite number.
    """
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    with quiet(model), head.on(model):
        for batch in batches:
            # Position 0 has nothing before it to be predicted from.
            count = int((batch["labels"][:, 1:] != IGNORED).sum())
            if count:
                inputs = {key: value.to(device) for key, value in batch.items()}
                total += head.loss(model, inputs, count)
                tokens += count
    if not math.isfinite(total):
        raise TrainingError(
            "the evaluation loss is not a number", "Lower training.learning_rate, or check the data"
        )
    loss = total / max(tokens, 1)
    # exp overflows from 710 on
    perplexity = math.exp(loss) if loss < 700 else None
    return {"loss": loss, "perplexity": perplexity, "tokens": tokens}


def padded(rows: Any, size: int, padding: int) -> Iterator[dict[str, Any]]:
    """Rows with ``input_ids`` and ``labels`` as right-padded batches, long rows with long ones.

    Yields:
        ``input_ids``, ``attention_mask`` and ``labels``, each (batch, length).
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    for chosen in by_length([len(row["input_ids"]) for row in rows], size):
        batch = rows.select(chosen)
        ids, labels = ([torch.tensor(row[key]) for row in batch] for key in ("input_ids", "labels"))
        mask = [torch.ones_like(row) for row in ids]
        yield {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
            "attention_mask": pad_sequence(mask, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }


def by_length(lengths: list[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of like length, the longest first: what does not fit shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), size):
        yield order[start : start + size]


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients, and the mode it was in afterwards."""
    import torch

    was_training = model.training
    model.eval()
    keep_trainable(model)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference on a CPU.

    Seen in 0.50.2: a forward in evaluation mode repacks them for good, and from then on the layer
    passes no gradient, so that training after an evaluation would go wrong without a word.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.training = True
