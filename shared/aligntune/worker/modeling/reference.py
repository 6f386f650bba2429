"""Log-probabilities of whole completions, and the reference model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aligntune.worker.modeling.loss_head import LossHead
from aligntune.worker.modeling.modes import by_length, quiet
from aligntune.worker.text.tokenize import IGNORED

REFERENCE_ADAPTER = "ref"
"""TRL's name of the frozen copy of the adapter that training started from."""


def completion_logprobs(
    model: Any,
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    size: int,
    padding: int,
    head: LossHead,
    temperature: float = 1.0,
) -> list[float]:
    """The log-probability of each completion after its prompt, summed over its tokens, in nats.

    Args:
        model: a causal language model.
        prompts: token ids; after an empty prompt, the first token of a completion is not predicted.
        completions: token ids.
        size: sequences per forward pass.
        padding: token id for padding.
        head: computes log-probabilities without full logits. If the model's forward returns only
            logits, those of the completions are used.
        temperature: divisor of the logits, as in sampling.
    """
    from aligntune.worker.modeling.score import Sequences, score

    device = next(model.parameters()).device
    pairs = [
        (prompt, completion) if prompt else (completion[:1], completion[1:])
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    found = [0.0] * len(pairs)
    predicted = [index for index, (_, completion) in enumerate(pairs) if completion]
    with quiet(model), head.on(model, temperature):
        for chosen in by_length(
            [len(pairs[index][0] + pairs[index][1]) for index in predicted], size
        ):
            rows = [predicted[place] for place in chosen]
            starts, ends = ([pairs[index][side] for index in rows] for side in (0, 1))
            batch = Sequences.of(starts, ends, padding, device)
            if head.fuses(model):
                inputs = {
                    "input_ids": batch.ids,
                    "attention_mask": batch.attention_mask,
                    "labels": batch.ids.masked_fill(~batch.learned, IGNORED),
                }
                sums = head.log_probs(model, inputs).sum(1)
            else:
                sums = (score(model, batch, temperature).log_probs * batch.mask).sum(1)
            for index, value in zip(rows, sums.tolist(), strict=True):
                found[index] = value
    return found


@contextmanager
def reference(model: Any, frozen: Any | None) -> Iterator[Any | None]:
    """The model that training started from, inside this context; None if there is none.

    Args:
        model: the policy. With an adapter the reference is the base model, or the frozen copy of
            the adapter that training started from.
        frozen: a frozen copy of all weights, if there is one.
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


def keep_reference(model: Any) -> None:
    """Keep a frozen copy of an adapter that training continues, as TRL does for its trainers.

    A new adapter starts at 0, so the model without it is the reference.
    """
    if not hasattr(model, "peft_config") or REFERENCE_ADAPTER in model.peft_config:
        return
    weights = dict(model.named_parameters())
    if not any(bool(weight.any()) for name, weight in weights.items() if ".lora_B." in name):
        return
    active = model.active_adapter
    model.add_adapter(REFERENCE_ADAPTER, model.peft_config[active])
    for name, weight in weights.items():
        if f".{active}." in name:
            kept = model.get_parameter(name.replace(f".{active}.", f".{REFERENCE_ADAPTER}."))
            kept.data.copy_(weight.data)
    model.set_adapter(active)
