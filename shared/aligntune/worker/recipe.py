"""The recipe of a run with everything that the worker has counted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from aligntune.algorithms import TITLES
from aligntune.recipe import known_recipe
from aligntune.record.recipe import Recipe
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.device import Device
from aligntune.worker.families import Setup
from aligntune.worker.text.tokenize import IGNORED

BATCH_ROWS = 1000

SEARCHED_ROWS = 64
"""The example is the shortest of this many rows."""

SEGMENT_CHARACTERS, SEGMENTS = 100, 6


def recorder(
    setup: Setup,
    run: RunDir,
    device: Device,
    backend: str,
    parts: dict[str, Any],
    learns: str,
) -> Callable[[Any, int], Recipe]:
    """A function that completes the recipe when training starts, and writes it to the record.

    It takes the trainer's arguments and the number of optimizer steps.

    Args:
        backend: its name.
        parts: rows as the trainer takes them: ``train`` and maybe ``evaluation``.
        learns: which tokens are learned.
    """
    spec = setup.spec

    def complete(arguments: Any, steps: int) -> Recipe:
        record = run.record()
        # A resumed run reads its own spec.yaml, which names every key.
        before = record.recipe.get("origins")
        recipe = known_recipe(spec, record.origins or _origins(record.plan))
        accumulation = int(arguments.gradient_accumulation_steps)
        recipe |= {
            "backend": TITLES[backend],
            "device": device.name,
            **count(parts),
            "accumulation": accumulation,
            "effective_batch": spec.training.batch_size * accumulation,
            "few_rows": accumulation < spec.training.accumulation(),
            "steps": steps,
            "warmup_steps": arguments.get_warmup_steps(steps),
            "precision": device.precision,
            "learns": learns,
            "example": example(parts["train"], setup.tokenizer),
            "origins": before or recipe["origins"],
        }
        run.update(recipe=recipe)
        return recipe

    return complete


def _origins(plan: Any) -> dict[str, str]:
    return dict(getattr(plan, "origins", None) or {})


def count(parts: dict[str, Any]) -> dict[str, int | None]:
    """Rows, and tokens of the training rows as far as they are known before training."""
    train, held_out = parts["train"], parts.get("evaluation", ())
    columns = train.column_names
    return {
        "rows": len(train),
        "held_out": len(held_out),
        "tokens": _count_tokens(train) if "length" in columns else None,
        "learned_tokens": _count_learned(train) if "labels" in columns else None,
    }


def _count_tokens(rows: Any) -> int:
    """Tokens of all sequences; ``length`` is of the longer answer of a pair."""
    if "chosen_ids" not in rows.column_names:
        return sum(rows["length"])
    prompts = rows["prompt_ids"] if "prompt_ids" in rows.column_names else ()
    answers = (map(len, rows[f"{side}_ids"]) for side in ("chosen", "rejected"))
    return 2 * sum(map(len, prompts)) + sum(map(sum, answers))


def _count_learned(rows: Any) -> int:
    from pyarrow import compute

    batches = rows.select_columns(["labels"]).with_format("arrow").iter(batch_size=BATCH_ROWS)
    labels = (compute.list_flatten(batch["labels"]) for batch in batches)
    return sum(compute.sum(compute.not_equal(part, IGNORED)).as_py() or 0 for part in labels)


def sequences(spec: RunSpec, rows: Any) -> int | None:
    """Training sequences, if that limits a step; packed rows are estimated from their tokens."""
    if spec.row.online:
        return None
    if spec.training.packing and spec.training.max_length:
        return int(-(-sum(rows["length"]) // spec.training.max_length))
    return len(rows)


def example(rows: Any, tokenizer: Any) -> list[tuple[str, bool]]:
    """A short row as text, in segments that are learned or not; empty if rows hold no tokens."""
    first = [rows[index] for index in range(min(SEARCHED_ROWS, len(rows)))]
    marked = [tokens for row in first if (tokens := _marked(row))]
    if not marked:
        return []
    shortest: list[tuple[int, bool]] = min(marked, key=lambda tokens: len(tokens))
    segments = [
        (tokenizer.decode([token for token, _ in run]), learned)
        for learned, run in groupby(shortest, key=lambda pair: pair[1])
    ]
    return [(_shorten(text), learned) for text, learned in segments[:SEGMENTS]]


def _marked(row: dict[str, Any]) -> list[tuple[int, bool]]:
    """Each token of an encoded row, with whether it is learned."""
    if "labels" in row:
        return [
            (token, label != IGNORED)
            for token, label in zip(row["input_ids"], row["labels"], strict=True)
        ]
    prompt = row.get("prompt_ids", [])
    answer = row.get("completion_ids") or row.get("chosen_ids") or []
    return [*((token, False) for token in prompt), *((token, True) for token in answer)]


def _shorten(text: str) -> str:
    half = SEGMENT_CHARACTERS // 2
    return text if len(text) <= SEGMENT_CHARACTERS else f"{text[:half]} ... {text[-half:]}"
