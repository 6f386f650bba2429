"""Evaluation, the same on every backend: of exactly the weights that a run saves, in the precision
that it trains in (:mod:`aligntune.worker.modeling.loss_head`).

Each family defines its figures (:mod:`aligntune.worker.families`); this module has what they share.
The trainers' evaluations average the means of batches, so tokens of short rows can weigh more. Ours
weigh every token, pair or completion equally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligntune.errors import TrainingError
from aligntune.worker.modeling.modes import by_length, quiet
from aligntune.worker.text.tokenize import IGNORED

if TYPE_CHECKING:
    from aligntune.worker.modeling.loss_head import LossHead

Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Measurement:
    """Figures by name, and a few samples for people to read."""

    metrics: Metrics
    samples: tuple[dict[str, Any], ...] = ()


Measure = Callable[[Any, Any, Any | None], Measurement]
"""From a model, encoded rows and a separate reference model, if there is one, to figures."""


def token_loss(model: Any, batches: Iterable[dict[str, Any]], head: LossHead) -> Metrics:
    """The mean cross entropy of ``model`` over every learned token of ``batches``, in nats.

    Args:
        model: a causal language model.
        batches: ``input_ids``, ``attention_mask`` and ``labels``, each (batch, length).
        head: computes the loss without full logits.

    Raises:
        TrainingError: the loss is not a finite number.
    """
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    with quiet(model), head.on(model):
        for batch in batches:
            # Position 0 is not predicted.
            count = int((batch["labels"][:, 1:] != IGNORED).sum())
            if count:
                inputs = {key: value.to(device) for key, value in batch.items()}
                total += head.loss(model, inputs, count)
                tokens += count
    if not math.isfinite(total):
        raise TrainingError(
            "the evaluation loss is not a finite number",
            "Lower training.learning_rate, or check the data for bad rows",
        )
    loss = total / max(tokens, 1)
    # exp overflows from 710 on
    perplexity = math.exp(loss) if loss < 700 else None
    return {"loss": loss, "perplexity": perplexity, "tokens": tokens}


def padded(rows: Any, size: int, padding: int) -> Iterator[dict[str, Any]]:
    """Rows with ``input_ids`` and ``labels`` as right-padded batches of similar length.

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
