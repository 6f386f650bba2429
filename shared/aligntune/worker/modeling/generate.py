"""Generate completions, in batches of prompts of similar length."""

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
    """Complete each prompt, up to and including the end token.

    The same seed and weights give the same completions. The caller's random state is unchanged.

    Args:
        model: a causal language model.
        prompts: token ids.
        tokenizer: of the model, for padding and end.
        generating: a context that prepares the model to generate.
        size: prompts per batch.
        seed: random seed of sampling.
        sampling: further arguments of ``transformers.GenerationConfig``.
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
    """Sample one completion per prompt, including its end token if it has one.

    Prompts of similar length share a batch, which needs little padding.

    Args:
        model: a causal language model.
        prompts: tokens of each.
        settings: a ``GenerationConfig`` that replaces the model's, whose values (such as a
            repetition penalty) would otherwise fill in unset values.
        batch_size: prompts per batch.
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
    """Tokens up to and including the first token that ends a completion."""
    last = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[: last + 1]


@contextmanager
def plain_generating(model: Any) -> Iterator[None]:
    """Evaluation mode inside this context."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def ends(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a completion, of the tokenizer and of the model's settings."""
    own = getattr(plain(model).generation_config, "eos_token_id", None)
    tokens = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(end for end in tokens if end is not None))


@contextmanager
def seeded(seed: int, device: Any) -> Iterator[None]:
    """Seed torch inside this context, and restore its random state afterwards.

    So sampling depends only on the run's seed and the rollout's number, and a resumed run repeats
    it.
    """
    import torch

    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield
