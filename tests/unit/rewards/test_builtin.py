"""What each built-in reward gives."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.rewards import chat, score, scores

from aligntune.errors import DataError


@pytest.mark.parametrize(
    ("completion", "reference", "args", "expected"),
    [
        ("  Paris\n ", "Paris", {}, 1.0),
        ("the  big\tcity", "the big city", {}, 1.0),
        ("paris", "Paris", {}, 0.0),
        ("paris", "Paris", {"ignore_case": True}, 1.0),
        ("I think: Answer: no. Answer: Paris", "Paris", {"after": "Answer:"}, 1.0),
        ("Paris", "Paris", {"after": "Answer:"}, 0.0),
        ("Lutetia", ["Paris", "Lutetia"], {}, 1.0),
        ("42", 42, {}, 1.0),
        ("Paris", None, {}, None),
    ],
)
def test_exact_match_is_of_texts_but_for_white_space(
    completion: str, reference: Any, args: dict[str, Any], expected: float | None
) -> None:
    assert score("exact_match", completion, args, answer=reference) == expected
    assert score("exact_match", chat(completion), args, answer=reference) == expected


@pytest.mark.parametrize(
    ("completion", "reference", "equal"),
    [
        ("first 3 and then it is 1,234.50.", "1234.5", True),
        ("#### 72 (or 73)", "Half of 144 is #### 72", True),
        (r"5 or so, \boxed{\frac{3}{4}}, not 9", 0.75, True),
        ("3/4", "0.75", True),
        ("50%", "0.5", True),
        ("50%", 50, True),
        ("50", "50%", True),
        ("0.5%", "50%", False),
        ("x = -5", -5, True),
        ("10-5", 5, False),
        ("10-5=5", 5, True),
        ("\u22125", "-5", True),
        (r"$1{,}000", 1000, True),
        ("- 5 apples", 5, True),
        ("1.2e3", 1200, True),
        ("1e999999", 1, False),
        ("9" * 5000, 9, False),
        ("7/0", 7, False),
        ("none", 7, False),
        ("0.33333333333", "1/3", True),
        ("0.333", "1/3", False),
    ],
)
def test_numeric_compares_the_final_number(completion: str, reference: Any, equal: bool) -> None:
    assert score("numeric", completion, answer=reference) == float(equal)


def test_numeric_has_a_tolerance_and_no_score_without_a_reference() -> None:
    assert score("numeric", "0.333", {"tolerance": 0.01}, answer="1/3") == 1.0
    assert score("numeric", "1001", {"tolerance": 0.001}, answer="1000") == 1.0
    assert score("numeric", "7", answer=None) is None
    assert score("numeric", "7", answer=["6", 7]) == 1.0


@pytest.mark.parametrize(
    ("completion", "reference", "expected"),
    [
        (r"so it is \boxed{\frac{1}{2}}", "0.5", 1.0),
        (r"\boxed{2\sqrt{2}}", r"\sqrt{8}", 1.0),
        (r"\boxed{x^2+2x+1}", "$(x+1)^2$", 1.0),
        (r"\boxed{7}", "8", 0.0),
        ("I do not know", "8", 0.0),
        ("8", None, None),
        ("8", "", None),
    ],
)
def test_math_is_equivalence(completion: str, reference: Any, expected: float | None) -> None:
    assert score("math", completion, answer=reference) == expected


def test_an_answer_that_takes_math_too_long_is_wrong_and_the_others_keep_their_time() -> None:
    endless = r"\boxed{9^{9^{9^{9}}}}"
    found = scores("math", [endless, r"\boxed{8}"], {"timeout": 0.3}, answer=["8", "8"])
    assert found == [0.0, 1.0]


@pytest.mark.parametrize(
    ("completion", "args", "expected"),
    [
        ("<think>a\nb</think>c", {"pattern": "<think>.*</think>.+"}, 1.0),
        ("so <b>x</b>", {"pattern": "<b>.*</b>"}, 0.0),
        ("so <b>x</b>", {"pattern": "<b>.*</b>", "search": True}, 1.0),
        ("YES", {"pattern": "yes", "ignore_case": True}, 1.0),
    ],
)
def test_regex_is_of_the_whole_completion_unless_it_is_a_search(
    completion: str, args: dict[str, Any], expected: float
) -> None:
    assert score("regex", completion, args) == score("regex", chat(completion), args) == expected


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ('{"age": 3}', 1.0),
        ('Here:\n```json\n{"age": 3}\n```\nDone.', 1.0),
        ('```\n{"age": "x"}\n```\n```json\n{"age": 3}\n```', 1.0),
        ('{"age": "three"}', 0.0),
        ('so {"age": 3}', 0.0),
        ('{"age": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_schema_takes_a_fenced_block_or_all(completion: str, expected: float) -> None:
    assert score("json_schema", completion, {"schema": SCHEMA}) == expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"target": 3}, 1.0),
        ({"target": 6}, 0.5),
        ({"target": 2}, 0.5),
        ({"max": 1}, 0.0),
        ({"min": 2, "max": 4}, 1.0),
        ({"target": 2, "unit": "words"}, 1.0),
        ({"target": 11, "unit": "characters"}, 1.0),
    ],
)
def test_length_is_one_within_its_bounds_and_falls_beyond(
    args: dict[str, Any], expected: float
) -> None:
    assert score("length", "hello world", args) == expected


def test_a_column_that_the_data_lacks_is_an_error_that_lists_what_it_has() -> None:
    with pytest.raises(DataError, match=r"'answer', which the data does not have.*has: solution"):
        score("exact_match", "x", solution="y")
    with pytest.raises(DataError, match="'tests'"):
        score("code", "x")
    assert score("exact_match", "y", {"column": "solution"}, solution="y") == 1.0
