"""Preference: learn which of two answers is better, relative to a reference."""

from __future__ import annotations

import math
from typing import Any

from aligntune.errors import DataError
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.families import Setup
from aligntune.worker.metrics import Measurement
from aligntune.worker.modeling.reference import completion_logprobs, reference
from aligntune.worker.text.encoding import Encoder, Starts
from aligntune.worker.text.tokenize import (
    ENDLESS,
    Tokenized,
    is_chat,
    notes,
    require_usable,
)

BEST = ("accuracy", True)
PREPARED = True
SIDES = ("chosen", "rejected")
SAMPLES = 4
CHANGES_LOSS = {"f_divergence_type", "ld_alpha", "loss_weights", "use_weighting"}
"""Trainer arguments that change the loss, so that it differs from the one measured here."""


def arguments(spec: RunSpec, max_length: int | None) -> dict[str, Any]:
    """See :class:`~aligntune.worker.families.Family`."""
    return {
        **relative_arguments(spec),
        "truncation_mode": "keep_start",
        "padding_free": False,
        "loss_type": [spec.preference.loss_type],
        "loss_weights": None,
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "label_smoothing": spec.preference.label_smoothing,
        "use_weighting": False,
    }


def relative_arguments(spec: RunSpec) -> dict[str, Any]:
    """The trainer's arguments for encoded rows and a loss relative to a reference."""
    return {
        "max_length": None,  # rows are cut already
        "remove_unused_columns": False,  # rows contain only used columns
        "pad_to_multiple_of": None,
        "precompute_ref_log_probs": False,
        "precompute_ref_batch_size": None,
        "beta": spec.preference.beta,
        "disable_dropout": not spec.adapter.dropout,  # it would disable the adapter's too
        "sync_ref_model": False,
        "activation_offloading": False,
    }


def encode(dataset: Any, setup: Setup, train: bool) -> Tokenized:
    """Rows with ``prompt_ids``, ``chosen_ids``, ``rejected_ids`` and ``length``.

    As in TRL, an answer starts where the tokens of the prompt and of prompt plus answer differ, at
    the same token for both answers.
    """
    tokenizer, limit = setup.tokenizer, setup.max_length
    require_usable(tokenizer, setup.spec, is_chat(dataset))
    encoder, starts = Encoder.of(tokenizer, setup.spec), Starts(tokenizer)

    def encode_row(row: dict[str, Any]) -> dict[str, Any]:
        prompt = encoder.prompt(row)
        whole = {side: encoder.answered(row, side) for side in SIDES}
        start = starts.find(prompt, *whole.values())
        longest = max(len(tokens) for tokens in whole.values())
        return {
            "prompt_ids": prompt[:start],
            **{f"{side}_ids": tokens[start:limit] for side, tokens in whole.items()},
            "length": min(longest, limit or longest),
            "cut": limit is not None and longest > limit,
            "full": limit is not None and start >= limit,
            "empty": not all(_says_something(row[side]) for side in SIDES),
            "endless": not set(whole["chosen"][start:]) & set(setup.ends),
        }

    encoded = dataset.map(encode_row, remove_columns=dataset.column_names, keep_in_memory=True)
    useful = encoded.filter(lambda row: not row["full"] and not row["empty"], keep_in_memory=True)
    if len(useful) == 0:
        raise DataError(
            "no pair has two answers" + (f" that start within {limit} tokens" if limit else ""),
            "Raise training.max_length up to the model's limit, or check the data",
        )
    return Tokenized(
        useful.select_columns(["prompt_ids", "chosen_ids", "rejected_ids", "length"]),
        starts.notes()
        + notes(
            (sum(useful["endless"]), ENDLESS),
            (sum(useful["cut"]), f"pairs are longer than {limit} tokens and were cut"),
            (
                sum(encoded["full"]),
                f"pairs have prompts of {limit} tokens or more and were skipped",
            ),
            (sum(encoded["empty"]), "pairs have an empty answer and were skipped"),
        ),
    )


def _says_something(answer: str | list[dict[str, Any]]) -> bool:
    """Whether an answer has a text or calls a tool."""
    if isinstance(answer, str):
        return bool(answer.strip())
    return any(message["content"].strip() or "tool_calls" in message for message in answer)


def extras(setup: Setup) -> dict[str, Any]:
    return {}


def measure(model: Any, rows: Any, setup: Setup, frozen: Any | None) -> Measurement:
    """Accuracy: the fraction of pairs whose chosen answer has the higher implicit reward (beta
    times the log-ratio of policy to reference). Margin: the mean difference.

    Without a reference, log-probabilities are compared.
    """
    size, padding = setup.spec.training.batch_size, setup.tokenizer.pad_token_id

    def scored(scorer: Any) -> dict[str, list[float]]:
        return {
            side: completion_logprobs(
                scorer, rows["prompt_ids"], rows[f"{side}_ids"], size, padding, setup.head
            )
            for side in SIDES
        }

    policy = scored(model)
    if "ref_chosen_logps" in rows.column_names:  # precompute_ref_log_probs
        before = {side: list(rows[f"ref_{side}_logps"]) for side in SIDES}
    else:
        with reference(model, frozen) as base:
            none = {side: [0.0] * len(rows) for side in SIDES}
            before = scored(base) if base is not None else none
    beta = setup.spec.preference.beta
    rewards = {
        side: [beta * (now - then) for now, then in zip(policy[side], before[side], strict=True)]
        for side in SIDES
    }
    margins = [
        chosen - rejected
        for chosen, rejected in zip(rewards["chosen"], rewards["rejected"], strict=True)
    ]
    metrics: dict[str, float | int | None] = {
        "accuracy": sum(margin > 0 for margin in margins) / len(margins),
        "margin": sum(margins) / len(margins),
        "reward_chosen": sum(rewards["chosen"]) / len(margins),
        "reward_rejected": sum(rewards["rejected"]) / len(margins),
        "pairs": len(margins),
    }
    preference, changed = setup.spec.preference, CHANGES_LOSS & set(setup.spec.trainer_args)
    if preference.loss_type == "sigmoid" and not preference.label_smoothing and not changed:
        metrics = {"loss": sum(map(_log1pexp, margins)) / len(margins), **metrics}
    samples = tuple(
        {
            "prompt": setup.tokenizer.decode(row["prompt_ids"]),
            **{side: setup.tokenizer.decode(row[f"{side}_ids"]) for side in SIDES},
            "margin": round(margin, 4),
        }
        for row, margin in zip(rows.select(range(min(SAMPLES, len(rows)))), margins, strict=False)
    )
    return Measurement(metrics, samples)


def _log1pexp(margin: float) -> float:
    """-log sigmoid(margin), without overflow."""
    return math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0)
