"""Reward model: a classifier with one label that scores the better of two answers higher."""

from __future__ import annotations

from typing import Any

from aligntune.errors import DataError
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.families import Setup
from aligntune.worker.families.preference import SAMPLES, SIDES
from aligntune.worker.metrics import Measurement
from aligntune.worker.modeling.modes import by_length, quiet
from aligntune.worker.text.encoding import Encoder
from aligntune.worker.text.tokenize import (
    Tokenized,
    is_chat,
    notes,
    require_usable,
)

BEST = ("accuracy", True)
PREPARED = False


def arguments(spec: RunSpec, max_length: int | None) -> dict[str, Any]:
    """See :class:`~aligntune.worker.families.Family`."""
    return {
        "max_length": None,  # rows that are too long are skipped already
        "remove_unused_columns": False,  # rows contain only used columns
        "pad_to_multiple_of": None,
        "center_rewards_coefficient": None,
        "disable_dropout": not spec.adapter.dropout,  # it would disable the adapter's too
        "activation_offloading": False,
        "eos_token": None,
        "pad_token": None,
    }


def encode(dataset: Any, setup: Setup, train: bool) -> Tokenized:
    """Rows with ``chosen_ids``, ``rejected_ids`` and ``length``. Rows are never cut, because the
    score is read from the last token.
    """
    tokenizer, limit = setup.tokenizer, setup.max_length
    require_usable(tokenizer, setup.spec, is_chat(dataset))
    encoder = Encoder.of(tokenizer, setup.spec)

    def encode_row(row: dict[str, Any]) -> dict[str, Any]:
        whole = {f"{side}_ids": encoder.answered(row, side) for side in SIDES}
        return {**whole, "length": max(map(len, whole.values()))}

    encoded = dataset.map(encode_row, remove_columns=dataset.column_names, keep_in_memory=True)
    useful = encoded.filter(
        lambda row: limit is None or row["length"] <= limit, keep_in_memory=True
    )
    if len(useful) == 0:
        raise DataError(
            f"no pair fits in {limit} tokens", "Raise training.max_length up to the model's limit"
        )
    left_out = len(encoded) - len(useful)
    return Tokenized(
        useful, notes((left_out, f"pairs are longer than {limit} tokens and were skipped"))
    )


def extras(setup: Setup) -> dict[str, Any]:
    return {}


def measure(model: Any, rows: Any, setup: Setup, frozen: Any | None) -> Measurement:
    """Accuracy: the fraction of pairs whose chosen answer scores higher. Margin: by how much."""
    size, padding = setup.spec.training.batch_size, setup.tokenizer.pad_token_id
    with setup.head.autocast():
        chosen_scores, rejected_scores = (
            scores(model, rows[f"{side}_ids"], size, padding) for side in SIDES
        )
    margins = [
        chosen - rejected for chosen, rejected in zip(chosen_scores, rejected_scores, strict=True)
    ]
    samples = tuple(
        {
            **{side: setup.tokenizer.decode(row[f"{side}_ids"]) for side in SIDES},
            "margin": round(margin, 4),
        }
        for row, margin in zip(rows.select(range(min(SAMPLES, len(rows)))), margins, strict=False)
    )
    return Measurement(
        {
            "accuracy": sum(margin > 0 for margin in margins) / len(margins),
            "margin": sum(margins) / len(margins),
            "pairs": len(margins),
        },
        samples,
    )


def scores(model: Any, sequences: list[list[int]], size: int, padding: int) -> list[float]:
    """The classifier's logit for each sequence of token ids."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    device = next(model.parameters()).device
    found = [0.0] * len(sequences)
    with quiet(model):
        for chosen in by_length([len(tokens) for tokens in sequences], size):
            rows = [torch.tensor(sequences[index]) for index in chosen]
            ids = pad_sequence(rows, batch_first=True, padding_value=padding).to(device)
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
            logits = model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
            for index, value in zip(chosen, logits, strict=True):
                found[index] = value
    return found
