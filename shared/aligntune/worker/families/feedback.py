"""Feedback: learn from answers labelled good or bad, relative to a reference (KTO)."""

from __future__ import annotations

from typing import Any

from aligntune.errors import DataError
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.families import Setup
from aligntune.worker.families.preference import relative_arguments
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

BEST = ("margin", True)
PREPARED = True
SAMPLES = 4


def arguments(spec: RunSpec, max_length: int | None) -> dict[str, Any]:
    """See :class:`~aligntune.worker.families.Family`."""
    return {
        **relative_arguments(spec),
        # The KL term pairs the rows of a batch, so encode() determines the batches.
        "train_sampling_strategy": "sequential",
        "loss_type": spec.preference.loss_type,
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
    }


def encode(dataset: Any, setup: Setup, train: bool) -> Tokenized:
    """Rows with ``prompt_ids``, ``completion_ids``, ``KL_completion_ids``, ``label``, ``length``.

    ``KL_completion_ids`` is the completion of the previous row in the same batch. The method
    estimates its reference point from these mismatched pairs, so training rows are shuffled.
    """
    tokenizer, limit, training = setup.tokenizer, setup.max_length, setup.spec.training
    require_usable(tokenizer, setup.spec, is_chat(dataset))
    encoder, starts = Encoder.of(tokenizer, setup.spec), Starts(tokenizer)

    def encode_row(row: dict[str, Any]) -> dict[str, Any]:
        prompt = encoder.prompt(row)
        whole = encoder.answered(row, "completion")
        start = starts.find(prompt, whole)
        return {
            "prompt_ids": prompt[:start],
            "completion_ids": whole[start:limit],
            "label": row["label"],
            "length": min(len(whole), limit or len(whole)),
            "cut": limit is not None and len(whole) > limit,
            "full": limit is not None and start >= limit,
            "endless": not set(whole[start:]) & set(setup.ends),
        }

    if train:
        dataset = dataset.shuffle(seed=training.seed)
    encoded = dataset.map(encode_row, remove_columns=dataset.column_names, keep_in_memory=True)
    useful = encoded.filter(lambda row: not row["full"], keep_in_memory=True)
    if len(useful) == 0:
        raise DataError(
            f"no answer starts within {limit} tokens",
            "Raise training.max_length up to the model's limit",
        )
    if train and len(set(useful["label"])) == 1:
        only = "good" if useful["label"][0] else "bad"
        raise DataError(
            f"every answer is labelled {only}", "Use data with both good and bad answers"
        )

    def rotate(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        answers = batch["completion_ids"]
        others = zip(batch["prompt_ids"], answers[-1:] + answers[:-1], strict=True)
        room = [(None if limit is None else limit - len(prompt), other) for prompt, other in others]
        return {"KL_completion_ids": [other[:most] for most, other in room]}

    useful = useful.map(
        rotate, batched=True, batch_size=training.batch_size, keep_in_memory=True
    ).remove_columns(["cut", "full", "endless"])
    return Tokenized(
        useful,
        starts.notes()
        + notes(
            (sum(encoded["endless"]), ENDLESS),
            (sum(encoded["cut"]), f"rows are longer than {limit} tokens and were cut"),
            (sum(encoded["full"]), f"rows have prompts of {limit} tokens or more and were skipped"),
        ),
    )


def extras(setup: Setup) -> dict[str, Any]:
    return {}


def measure(model: Any, rows: Any, setup: Setup, frozen: Any | None) -> Measurement:
    """Mean implicit reward (beta times the log-ratio to the reference) of good and of bad answers,
    and the margin between them.
    """
    size, padding = setup.spec.training.batch_size, setup.tokenizer.pad_token_id
    arguments = (rows["prompt_ids"], rows["completion_ids"], size, padding, setup.head)
    policy = completion_logprobs(model, *arguments)
    with reference(model, frozen) as base:
        before = completion_logprobs(base, *arguments) if base is not None else [0.0] * len(rows)
    beta = setup.spec.preference.beta
    rewards = [beta * (now - then) for now, then in zip(policy, before, strict=True)]

    def mean(good: bool) -> float | None:
        mine = [
            reward for reward, label in zip(rewards, rows["label"], strict=True) if label == good
        ]
        return sum(mine) / len(mine) if mine else None

    good, bad = mean(True), mean(False)
    samples = tuple(
        {
            "prompt": setup.tokenizer.decode(row["prompt_ids"]),
            "completion": setup.tokenizer.decode(row["completion_ids"]),
            "label": row["label"],
            "reward": round(reward, 4),
        }
        for row, reward in zip(rows.select(range(min(SAMPLES, len(rows)))), rewards, strict=False)
    )
    return Measurement(
        {
            "margin": good - bad if good is not None and bad is not None else None,
            "reward_good": good,
            "reward_bad": bad,
            "rows": len(rows),
        },
        samples,
    )
