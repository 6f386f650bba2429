"""Models in evaluation mode, and rows in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
