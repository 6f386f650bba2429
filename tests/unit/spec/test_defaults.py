"""The defaults that decide what is learned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from aligntune.defaults import table
from aligntune.errors import SpecError
from aligntune.recipe import known_recipe
from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import Settings, resolve
from aligntune.spec.run_spec import RunSpec

ROOT = Path(__file__).parents[3]


def settings(algorithm: str, *assignments: str, **values: Any) -> Settings:
    needed: dict[str, Any] = {"algorithm": algorithm, "model": "org/model", "dataset": "org/data"}
    if algorithm in ("grpo", "ppo", "rloo"):
        needed["rewards"] = "length"
    return resolve([Layer("file.yaml", {**needed, **values}), *map(from_assignment, assignments)])


def spec_of(algorithm: str, *assignments: str, **values: Any) -> RunSpec:
    return settings(algorithm, *assignments, **values).spec


def test_the_table_in_the_docs_is_printed_by_the_code() -> None:
    docs = (ROOT / "docs" / "defaults.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- defaults -->\n(.*?)\n<!-- /defaults -->", docs, re.DOTALL)
    assert found, "docs/defaults.md has no <!-- defaults --> ... <!-- /defaults -->"
    assert found[1].strip() == table(), "python -m aligntune.defaults prints what belongs"


@pytest.mark.parametrize(
    ("algorithm", "schedule", "warmup", "epochs", "batch"),
    [
        ("sft", "cosine", 0.03, 3, 16),
        ("dpo", "cosine", 0.03, 1, 16),
        ("kto", "cosine", 0.03, 1, 16),
        ("reward", "cosine", 0.03, 1, 16),
        ("grpo", "linear", 0, 3, 8),
        ("ppo", "linear", 0, 3, 8),
    ],
)
def test_schedule_epochs_and_effective_batch_follow_the_algorithm(
    algorithm: str, schedule: str, warmup: float, epochs: float, batch: int
) -> None:
    training = spec_of(algorithm).training
    assert (training.schedule, training.warmup, training.epochs) == (schedule, warmup, epochs)
    assert training.batch_size * training.accumulation() == batch


@pytest.mark.parametrize(
    ("batch_size", "rows", "accumulation"),
    [(8, None, 2), (1, None, 16), (3, None, 6), (32, None, 1), (8, 15, 1), (8, 16, 2), (2, 9, 4)],
)
def test_a_step_learns_from_16_rows_or_more_but_from_no_more_than_there_are(
    batch_size: int, rows: int | None, accumulation: int
) -> None:
    spec = spec_of("sft", f"training.batch_size={batch_size}")
    assert spec.training.accumulation(rows) == accumulation
    given = spec_of("sft", "training.gradient_accumulation=5").training
    assert given.accumulation(1) == 5, "what the user wrote is never changed"


@pytest.mark.parametrize(
    ("assignments", "alpha"),
    [
        (["adapter.rank=4"], 8),
        (["adapter.rank=64"], 128),
        (["adapter.rank=64", "adapter.alpha=16"], 16),
        (["adapter.rank=256", "adapter.rslora=true"], 32),
    ],
)
def test_alpha_follows_the_rank_unless_it_is_given(assignments: list[str], alpha: float) -> None:
    assert spec_of("sft", *assignments).adapter.lora_alpha == alpha


def test_specs_of_earlier_versions_which_name_the_old_defaults_are_still_valid() -> None:
    old = {"gradient_accumulation": 1, "assistant_only_loss": False, "packing": False}
    adapter = {"type": "none", "alpha": 32.0, "rank": 16}
    spec = spec_of("dpo", training=old, adapter=adapter)
    assert spec.training.accumulation() == 1
    with pytest.raises(SpecError, match=r"adapter\.alpha has no effect"):
        spec_of("dpo", adapter={"type": "none", "alpha": 31.0})


def test_the_best_checkpoint_needs_evaluations_between() -> None:
    best = "training.keep_best=true"
    with pytest.raises(SpecError, match=r"training\.keep_best needs evaluation data"):
        spec_of("sft", best)
    with pytest.raises(
        SpecError, match=r"keep_best needs evaluations during .*set training\.eval_steps"
    ):
        spec_of("sft", best, "dataset.validation_fraction=0.1")


def test_the_recipe_of_a_request_says_where_each_value_came_from() -> None:
    asked = settings("dpo", "training.warmup=10", adapter={"rank": 8}, training={"epochs": 2})
    recipe = known_recipe(asked.spec, asked.origins)
    assert recipe["adapter"] == "LoRA rank 8, alpha 16"
    assert recipe["effective_batch"] == 16
    assert recipe["origins"] == {
        "training.epochs": "file.yaml",
        "training.max_steps": "default",
        "training.batch_size": "default",
        "training.gradient_accumulation": "default",
        "training.learning_rate": "default for dpo, x 10 for an adapter",
        "training.schedule": "default for dpo",
        "training.warmup": "--set training.warmup",
    }
    # Inside an image that was started by hand, nobody knows who wrote a value.
    assert known_recipe(asked.spec, {})["origins"]["training.warmup"] == "spec"
