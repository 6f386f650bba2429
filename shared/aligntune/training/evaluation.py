"""Token-weighted evaluation: the mean over all learned tokens, in nats.

The trainers' own evaluation averages the means of batches, so that short rows weigh more the fewer
they are with. This one is what anybody gets who computes the loss of the saved weights over the
same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aligntune.errors import TrainingError
from aligntune.training.tokenization import IGNORED


@dataclass(frozen=True)
class Evaluation:
    """``loss`` is nats a token, ``tokens`` how many were predicted."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float | None:
        """exp(loss), None where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else None


def evaluate(model: Any, batches: Iterable[dict[str, Any]]) -> Evaluation:
    """The mean cross entropy of ``model`` over every learned token of ``batches``.

    Args:
        model: a causal language model that returns the mean loss of a batch. Logits are not read,
            as Unsloth's fused loss returns none on a GPU.
        batches: ``input_ids``, ``attention_mask`` and ``labels``, each (batch, length).

    Raises:
        TrainingError: the loss is not a finite number.
    """
    import torch

    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    keep_trainable(model)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            # Position 0 has nothing before it to be predicted from.
            count = int((batch["labels"][:, 1:] != IGNORED).sum())
            if count:
                # Batches without padding also carry numbers, such as the longest row's length.
                inputs = {
                    key: value.to(device) if isinstance(value, torch.Tensor) else value
                    for key, value in batch.items()
                }
                total += float(model(**inputs).loss) * count
                tokens += count
    model.train(was_training)
    if not math.isfinite(total):
        raise TrainingError(
            "the evaluation loss is not a number", "Lower training.learning_rate, or check the data"
        )
    return Evaluation(total / max(tokens, 1), tokens)


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference on a CPU.

    Seen in 0.50.2: a forward in evaluation mode repacks them for good, and from then on the layer
    passes no gradient, so that training after an evaluation would go wrong without a word.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.training = True


def token_weighted(trainer: type[Any]) -> type[Any]:
    """``trainer`` with an ``evaluate`` that weighs every token the same."""

    class TokenWeighted(trainer):  # type: ignore[misc]
        def evaluate(
            self,
            eval_dataset: Any = None,
            ignore_keys: list[str] | None = None,
            metric_key_prefix: str = "eval",
        ) -> dict[str, float | None]:
            found = evaluate(self.model, self.get_eval_dataloader(eval_dataset))
            metrics: dict[str, float | None] = {
                f"{metric_key_prefix}_loss": found.loss,
                f"{metric_key_prefix}_perplexity": found.perplexity,
                f"{metric_key_prefix}_tokens": found.tokens,
            }
            self.log(metrics)
            self.control: Any = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

    TokenWeighted.__name__ = trainer.__name__
    return TokenWeighted
