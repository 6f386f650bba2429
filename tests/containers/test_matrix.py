"""Every algorithm, on every backend that its row says, learns a toy whose answer is known.

Made from the table: a new row, or a new Yes in it, is a new test, which fails until its family has
a toy (tests/helpers/toys.py). ``make test`` runs a few of these, ``make test-matrix`` all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.containers.learning import Learning
from tests.containers.runs import Ended
from tests.helpers.toys import TOYS

from aligntune.algorithms import ALGORITHMS

pytestmark = pytest.mark.matrix

FEW = {
    *(("trl", "dpo", "LoRA"), ("trl", "grpo", "full"), ("trl", "ppo", "LoRA")),
    *(("unsloth", "dpo", "full"), ("unsloth", "grpo", "LoRA")),
}
"""Those that ``make test`` runs too; SFT has tests of its own."""

KINDS = ("full", "LoRA")


def cells() -> list[Any]:
    """Every Yes of the table, full and LoRA."""
    return [
        pytest.param(*cell, id=", ".join(cell), marks=[pytest.mark.small] * (cell in FEW))
        for row in ALGORITHMS.values()
        for backend in sorted(row.backends)
        for kind in KINDS
        for cell in [(backend, row.name, kind)]
    ]


def describe(ended: Ended, figure: str) -> str:
    """The figure and the times of a run, for the table at the end of the tests."""
    result = ended.result
    seconds = result["seconds"]
    return f"{figure} {result[f'eval_{figure}']:.3f}, {seconds['train']:.1f} s of training"


@pytest.mark.parametrize(("backend", "algorithm", "kind"), cells())
def test_it_learns_its_toy(
    backend: str,
    algorithm: str,
    kind: str,
    learning: Learning,
    record_property: Callable[[str, object], None],
) -> None:
    toy = learning.toy(algorithm)
    ended = learning.train(learning.spec(algorithm, adapter=kind == "LoRA"), backend)
    record_property("figure", describe(ended, toy.figure))
    assert ended.result["backend"] == backend
    assert (ended.result["trainable"] < ended.result["parameters"]) == (kind == "LoRA")
    assert toy.learned(ended.result), ended.report


@pytest.mark.parametrize("family", sorted({row.family for row in ALGORITHMS.values()}))
def test_a_trainer_that_does_not_learn_misses_the_toy(
    family: str, learning: Learning, record_property: Callable[[str, object], None]
) -> None:
    algorithm = next(row.name for row in ALGORITHMS.values() if row.family == family)
    ended = learning.train(learning.spec(algorithm, learning_rate=0.0))
    record_property("figure", describe(ended, TOYS[family].figure))
    assert not TOYS[family].learned(ended.result), ended.report
