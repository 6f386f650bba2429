"""Evaluation mode, and batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def by_length(lengths: list[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, the longest first, so that memory errors come early."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), size):
        yield order[start : start + size]


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients inside this context."""
    import torch

    was_training = model.training
    model.eval()
    keep_trainable(model)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        keep_trainable(model)  # this context may be inside another one


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference on a CPU.

    Seen in 0.50.2: a forward pass in evaluation mode repacks them permanently. The layer then
    passes no gradient, and training after an evaluation silently fails.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.training = True
