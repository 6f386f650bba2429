"""Our runs are stock TRL's, to the last weight: against trainers started by hand (stock_trl.py).

The four of the GRPO family are told apart off-policy: two iterations over each batch of
completions, a KL term, completions that end and such that are cut.
"""

from __future__ import annotations

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tests.containers.learning import Learning
from tests.containers.runs import ROOT, in_image

GRPO_FAMILY = ("grpo", "dapo", "dr_grpo", "gspo")
NAMES = ("sft", "dpo", *GRPO_FAMILY)

TRAINING: dict[str, Any] = {
    "batch_size": 8,
    "gradient_accumulation": 2,
    "max_steps": 12,
    "learning_rate": 2e-3,
    "max_length": 64,
    "group_by_length": False,  # which stock TRL leaves to chance
    "logging_steps": 1,
}
OFF_POLICY = {"num_generations": 4, "max_completion_length": 12, "num_iterations": 2, "beta": 0.05}

Figures = dict[str, Any]


@pytest.fixture(scope="module")
def ours(learning: Learning) -> dict[str, Figures]:
    """Our runs: losses, gradient norms and where the model is."""
    found = {}
    for name in NAMES:
        spec = learning.spec(name, **TRAINING)
        del spec["dataset"]["eval_name"]
        if name in GRPO_FAMILY:
            spec["rl"] = OFF_POLICY
        ended = learning.train(spec)
        assert ended.code == 0, ended.report
        steps = [step for step in ended.events("step") if "loss" in step]
        found[name] = {
            "losses": [step["loss"] for step in steps],
            "grad_norms": [step["grad_norm"] for step in steps],
            "model": ended.run / "model",
        }
    return found


@pytest.fixture(scope="module")
def stock(learning: Learning, ours: dict[str, Figures]) -> Figures:
    """The same by hand: what stock_trl.py prints."""
    bench = learning.bench
    jobs = [
        {
            "algorithm": name,
            "model": str(learning.model),
            "data": str(learning.data(name)),
            "reward": str(learning.reward),
            "theirs": str(run["model"]),
        }
        for name, run in ours.items()
    ]
    listed = bench.write("stock-jobs.json", json.dumps(jobs))
    script = Path(shutil.copy(ROOT / "tests" / "containers" / "stock_trl.py", bench.folder))
    image = learning.image("trl", "cpu")
    printed = in_image(image, script, bench, listed)
    return dict(json.loads(printed.splitlines()[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_stock_trls(name: str, ours: dict[str, Figures], stock: Figures) -> None:
    mine, theirs = ours[name], stock["algorithms"][name]
    assert len(theirs["losses"]) == TRAINING["max_steps"]
    assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-5, abs=1e-6)
    assert mine["grad_norms"] == pytest.approx(theirs["grad_norms"], rel=1e-5)
    assert theirs["moved"] > 1e-3
    assert theirs["apart"] < 1e-6


@pytest.mark.parametrize("name", GRPO_FAMILY)
def test_some_completions_end_and_some_are_cut(name: str, stock: Figures) -> None:
    cut = [share for share in stock["algorithms"][name]["cut"] if share]
    assert cut
    assert all(0 < share < 1 for share in cut)


@pytest.mark.parametrize(("one", "two"), list(combinations(GRPO_FAMILY, 2)))
def test_two_algorithms_swapped_would_not_pass(one: str, two: str, stock: Figures) -> None:
    first, second = (stock["algorithms"][name] for name in (one, two))
    assert stock["pairs"][f"{one} {two}"] > 1e-3, "where a run and stock TRL are within 1e-6"
    assert first["losses"] != pytest.approx(second["losses"], rel=1e-3, abs=1e-4)
    assert first["grad_norms"] != pytest.approx(second["grad_norms"], rel=1e-3)
