"""The table as the README shows it, and the toys that the matrix test has for it."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest
from tests.helpers.toys import TOYS

from aligntune.algorithms import ALGORITHMS, BACKENDS, matrix

ROOT = Path(__file__).resolve().parents[2]


def test_the_matrix_in_the_readme_is_printed_by_the_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- matrix -->\n(.*?)\n<!-- /matrix -->", readme, re.DOTALL)
    assert found, "README.md has no <!-- matrix --> ... <!-- /matrix -->"
    assert found[1].strip() == matrix(), "python -m aligntune.algorithms prints what belongs there"


@pytest.mark.parametrize("name", ["sft", "dpo", "ppo", "grpo", "dapo", "dr_grpo"])
def test_it_runs_on_every_backend(name: str) -> None:
    assert set(ALGORITHMS[name].backends) == set(BACKENDS)


def test_gspo_is_trls_alone() -> None:
    assert ALGORITHMS["gspo"].backends == ("trl",)


def test_every_family_has_a_toy_to_learn() -> None:
    assert {row.family for row in ALGORITHMS.values()} == set(TOYS)


def test_no_two_rows_are_the_same_training() -> None:
    for one, two in combinations(ALGORITHMS.values(), 2):
        assert (one.trainer, one.implies) != (two.trainer, two.implies)
