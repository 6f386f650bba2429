"""Access to a model below its adapter, to its body, and to its dropout."""

from __future__ import annotations

from typing import Any


def plain(model: Any) -> Any:
    """The transformers model below an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder(model: Any) -> Any:
    """The body of a causal language model, without its head but with adapters."""
    whole = plain(model)
    return getattr(whole, whole.base_model_prefix)


def disable_dropout(model: Any) -> None:
    """Turn off all dropout permanently, so that sampled and learned log-probabilities agree."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
