"""Completions of prompts by a model, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from aligntune.training.evaluation import by_length


def complete(
    model: Any,
    prompts: list[list[int]],
    tokenizer: Any,
    inference: Callable[[Any], AbstractContextManager[None]],
    size: int,
    *,
    seed: int,
    **sampling: Any,
) -> list[list[int]]:
    """A completion of each prompt, up to and with its end.

    The same seed makes the same completions of the same weights, and leaves the caller's own random
    state as it was.

    Args:
        model: a causal language model.
        prompts: token ids.
        tokenizer: of the model, for padding and end.
        inference: makes the model ready to generate for as long as its context lasts.
        size: prompts a batch; they are batched with others of like length, padded on the left.
        seed: of sampling.
        sampling: what ``transformers.GenerationConfig`` is given beside that.
    """
    import torch
    from transformers import GenerationConfig

    device = next(model.parameters()).device
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    config = GenerationConfig(pad_token_id=pad, eos_token_id=end, **sampling)
    found: list[list[int]] = [[] for _ in prompts]
    devices = [device] if device.type == "cuda" else []
    with inference(model), torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        for chosen in by_length([len(prompt) for prompt in prompts], size):
            width = max(len(prompts[n]) for n in chosen)
            fill = [width - len(prompts[n]) for n in chosen]
            ids = [[pad] * k + prompts[n] for k, n in zip(fill, chosen, strict=True)]
            mask = [[0] * k + [1] * (width - k) for k in fill]
            made = model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
            )
            for n, row in zip(chosen, made[:, width:].tolist(), strict=True):
                stop = next((k for k, token in enumerate(row) if token == end), None)
                found[n] = row if stop is None else row[: stop + 1]
    return found
