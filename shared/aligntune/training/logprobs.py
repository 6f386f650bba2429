"""Log-probabilities of completions, and the reference that they are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aligntune.training.evaluation import by_length, quiet

REFERENCE_ADAPTER = "ref"
"""What TRL calls its frozen copy of an adapter that training began with."""


def completion_logprobs(
    model: Any,
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    size: int,
    padding: int,
    temperature: float = 1.0,
) -> list[float]:
    """The log-probability of each completion after its prompt, summed over its tokens, in nats.

    Args:
        model: a causal language model.
        prompts: token ids.
        completions: token ids, of which a first one without any prompt is not predicted.
        size: sequences a forward.
        padding: token id that shorter ones are filled up with, on the right.
        temperature: that logits are divided by, as in sampling.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    device = next(model.parameters()).device
    found = [0.0] * len(prompts)
    pairs = list(zip(prompts, completions, strict=True))
    with quiet(model):
        for chosen in by_length([len(one) + len(two) for one, two in pairs], size):
            rows = [torch.tensor(pairs[index][0] + pairs[index][1]) for index in chosen]
            ids = pad_sequence(rows, batch_first=True, padding_value=padding).to(device)
            lengths = torch.tensor([len(row) for row in rows], device=device)
            places = torch.arange(ids.shape[1], device=device)
            mask = places < lengths[:, None]  # (batch, length)
            starts = torch.tensor([len(pairs[index][0]) for index in chosen], device=device)
            learned = (mask & (places >= starts[:, None]))[:, 1:]
            logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
            logits = logits[:, :-1].float() / temperature  # (batch, length - 1, vocabulary)
            picked = logits.gather(2, ids[:, 1:, None]).squeeze(2) - logits.logsumexp(2)
            sums = (picked * learned).sum(1).tolist()
            for index, value in zip(chosen, sums, strict=True):
                found[index] = value
    return found


@contextmanager
def reference(model: Any, frozen: Any | None) -> Iterator[Any | None]:
    """The model that training began with, for as long as this; None where none is at hand.

    Args:
        model: the policy. With an adapter the reference is what it was put on, or TRL's copy of
            the adapter that was gone on with.
        frozen: a copy of all weights, where there is one.
    """
    if frozen is not None or not hasattr(model, "peft_config"):
        yield frozen
        return
    if REFERENCE_ADAPTER not in model.peft_config:
        with model.disable_adapter():
            yield model
        return
    active = model.active_adapter
    model.set_adapter(REFERENCE_ADAPTER)
    try:
        yield model
    finally:
        model.set_adapter(active)
