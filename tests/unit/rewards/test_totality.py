"""No completion ends a run: built-in rewards give every text a score, in bounded time.

``ALIGNTUNE_TEST_COMPLETIONS=10000`` tries that many completions per reward instead of 50.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.helpers.rewards import made

SCHEMA = {
    "anyOf": [
        {"type": "number", "multipleOf": 0.01, "minimum": -5},
        {"type": "array", "uniqueItems": True, "items": {"type": "integer"}},
        {"type": "string", "pattern": "^(a|aa)+$"},
        {"type": "object", "additionalProperties": {"enum": [1, "x", None]}},
    ]
}
REWARDS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "exact_match": ("exact_match", {"after": "Answer:"}, "4"),
    "numeric": ("numeric", {}, ["4", 5]),
    "math": ("math", {"timeout": 2.0}, r"\frac{1}{2}"),
    "regex": ("regex", {"pattern": r"(a|b)+\W?\d*", "search": True}, "x"),
    "json_schema": ("json_schema", {"schema": SCHEMA}, "x"),
    "length": ("length", {"max": 3, "unit": "words"}, "x"),
    "code": ("code", {"timeout": 0.5}, "assert f(1) == 2"),
}
NUMBERS = ("1" + "0" * 400, "9" * 5000, "1e400", "-1E-999", "1e999999999", "1/0")
MARKS = ("```", "~~~python\n", "\n", "def f(x):\n    return 2\n", "\\boxed{", "}", "{", "[", "$")
LATEX = ("\\frac", "^", "_", "####", "Answer:", " ", "%", "km", "\\left(", "\\sqrt[", "\x00", "\\")
OTHERS = ("\ud800", "\u202e", "\u0966", "a" * 50, '"', ":", ",", "null", "true", "NaN", "Infinity")
SLOW = ("7^{10^9}",) if "ALIGNTUNE_TEST_COMPLETIONS" in os.environ else ()
"""math-verify's process is killed and started again."""

PARTS = st.sampled_from([*NUMBERS, *MARKS, *LATEX, *OTHERS, *SLOW])
TEXTS = st.one_of(st.text(st.characters(), max_size=60), st.lists(PARTS, max_size=12).map("".join))
ASKED = int(os.environ.get("ALIGNTUNE_TEST_COMPLETIONS", "0"))
BATCH = 25
"""Completions per call, as a trainer passes batches."""


@pytest.mark.parametrize("reward", REWARDS)
def test_every_text_gets_a_score(reward: str) -> None:
    name, args, reference = REWARDS[reward]
    function = made(name, args)
    batches = (ASKED or 50) // BATCH if name != "code" or ASKED else 1  # it starts processes

    @settings(
        max_examples=batches,
        deadline=None,
        derandomize=not ASKED,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(TEXTS, min_size=BATCH, max_size=BATCH))
    @example(["", " ", "\n", "0", "x", "\ud800", "\x00", "[" * 9999, "{" * 9999, "\\" * 999])
    def judge(completions: list[str]) -> None:
        found = function(
            prompts=["p"] * len(completions),
            completions=completions,
            completion_ids=[[1]] * len(completions),
            answer=[reference] * len(completions),
            tests=[reference] * len(completions),
        )
        assert len(found) == len(completions)
        assert all(score is not None and 0 <= score <= 1 for score in found)

    judge()


def counted(name: str, args: dict[str, Any], completions: list[str], **given: Any) -> Any:
    """The scores, and what was logged."""
    logged: dict[str, float] = {}
    found = made(name, args)(
        prompts=["p"] * len(completions),
        completions=completions,
        completion_ids=[[1]] * len(completions),
        log_metric=logged.__setitem__,
        **{key: [value] * len(completions) for key, value in given.items()},
    )
    return found, logged


def test_a_text_on_which_a_pattern_backtracks_forever_scores_0_and_is_counted() -> None:
    began = time.monotonic()
    found, logged = counted("regex", {"pattern": "(a+)+b", "timeout": 0.2}, ["a" * 60, "aab"])
    assert found == [0.0, 1.0]
    assert logged == {"rewards/regex/timeouts": 1, "rewards/regex/errors": 0}
    schema = {"type": "string", "pattern": "^(a+)+$"}
    args = {"schema": schema, "timeout": 0.2}
    found, logged = counted("json_schema", args, [f'"{"a" * 60}!"', '"aa"'])
    assert found == [0.0, 1.0]
    assert logged["rewards/json_schema/timeouts"] == 1
    assert time.monotonic() - began < 5


def test_arithmetic_that_no_signal_interrupts_scores_0_and_is_counted() -> None:
    completions = [r"\boxed{7^{10^9}}", r"\boxed{8}"]
    found, logged = counted("math", {"timeout": 1.0}, completions, answer="8")
    assert found == [0.0, 1.0]
    assert logged == {"rewards/math/timeouts": 1, "rewards/math/errors": 0}


def test_a_candidate_without_end_is_counted() -> None:
    found, logged = counted(
        "code", {"timeout": 0.5}, ["while True: pass", "x = 1"], tests="assert x"
    )
    assert found == [0.0, 1.0]
    assert logged == {"rewards/code/timeouts": 1, "rewards/code/errors": 0}


@pytest.mark.parametrize(
    ("completion", "expected"),
    [("1" + "0" * 400, 1.0), ("1e400", 0.0), ("19.99", 1.0), ("19.995", 0.0), ("-0.07", 1.0)],
)
def test_multiples_are_exact_and_of_any_size(completion: str, expected: float) -> None:
    schema = {"type": "number", "multipleOf": 0.01}
    found, logged = counted("json_schema", {"schema": schema}, [completion])
    assert found == [expected]
    assert logged["rewards/json_schema/errors"] == 0
