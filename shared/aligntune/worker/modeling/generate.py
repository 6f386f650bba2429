"""Completions of prompts by a model, in batches of prompts of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from aligntune.worker.modeling.model import plain
from aligntune.worker.modeling.modes import by_length, keep_trainable

Generating = Callable[[Any], AbstractContextManager[Any]]
"""``with generating(model): model.generate(...)``: into inference mode, and back to training."""


def complete(
    model: Any,
    prompts: list[list[int]],
    tokenizer: Any,
    generating: Generating,
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
        generating: makes the model ready to generate for as long as its context lasts.
        size: prompts a batch.
        seed: of sampling.
        sampling: what ``transformers.GenerationConfig`` is given beside that.
    """
    from transformers import GenerationConfig

    settings = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=ends(model, tokenizer) or None, **sampling
    )
    with seeded(seed, next(model.parameters()).device):
        return generate(model, prompts, settings, size, generating)


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    settings: Any,
    batch_size: int,
    generating: Generating,
) -> list[list[int]]:
    """Sample a completion of each prompt, its end token included if it came to one.

    Batches are of prompts of like length, so that little is padded.

    Args:
        model: a causal language model.
        prompts: tokens of each.
        settings: a ``GenerationConfig``, all that generation does; the model's own are left aside,
            which would fill in what is not said, such as a repetition penalty.
        batch_size: prompts generated from at once.
        generating: puts the model into inference mode, and back.

    Returns:
        Tokens of each completion, at least 1.
    """
    import torch

    found: list[list[int]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    whole = plain(model)
    own, whole.generation_config = whole.generation_config, settings
    try:
        with torch.no_grad(), generating(model):
            keep_trainable(model)
            for rows in by_length([len(prompt) for prompt in prompts], batch_size):
                width = len(prompts[rows[0]])
                pads = [width - len(prompts[row]) for row in rows]
                ids = [
                    [settings.pad_token_id] * pad + prompts[row]
                    for pad, row in zip(pads, rows, strict=True)
                ]
                masks = [[0] * pad + [1] * (width - pad) for pad in pads]
                tokens = model.generate(
                    input_ids=torch.tensor(ids, device=device),
                    attention_mask=torch.tensor(masks, device=device),
                    generation_config=settings,
                )
                for row, completion in zip(rows, tokens[:, width:].tolist(), strict=True):
                    found[row] = up_to_end(completion, settings.eos_token_id or [])
    finally:
        whole.generation_config = own
    return found


def up_to_end(tokens: list[int], stops: Sequence[int]) -> list[int]:
    """Tokens up to the first that ends a completion, and that one."""
    last = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[: last + 1]


@contextmanager
def plain_generating(model: Any) -> Iterator[None]:
    """Evaluation mode, and back to what it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def ends(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a completion: the tokenizer's and those of the model's own settings."""
    told = getattr(plain(model).generation_config, "eos_token_id", None)
    wanted = [tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])]
    return list(dict.fromkeys(end for end in wanted if end is not None))


@contextmanager
def seeded(seed: int, device: Any) -> Iterator[None]:
    """Random numbers of torch as a function of ``seed``; what was there before is put back.

    So sampling is a function of the run's seed and the rollout's number, and a resumed run repeats
    it, whatever else has drawn random numbers.
    """
    import torch

    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield
