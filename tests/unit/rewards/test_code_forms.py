"""The code reward: forms of tests that it reads or refuses, and tricks that it withstands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hostile import TRICKS
from tests.helpers.rewards import Asked, made, score, scores

from aligntune.errors import DataError
from aligntune.rewards import check_rows
from aligntune.rewards.builtin.code_tests import read_tests

RIGHT = "Sure:\n\n```python\ndef add(a, b):\n    return a + b\n```\nThis adds."
WRONG = "```python\ndef add(a, b):\n    return a - b\n```"
IDLE = "```python\nx = 1\n```"
PROGRAM = "a, b = map(int, input().split())\nprint(a + b)"

CALLED = {
    "HumanEval": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n"
    "    assert True, 'for debugging'\n",
    "MBPP": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"],
    "MBPP as JSON": '["assert add(1, 2) == 3"]',
    "pytest": "import pytest\nfrom solution import add\n\n"
    "@pytest.mark.parametrize('a, b', [(1, 2), (2, 1)])\ndef test_add(a, b):\n"
    "    assert add(a, b) == pytest.approx(3)\n\ndef test_text():\n"
    "    with pytest.raises(TypeError, match='unsupported|concatenate'):\n        add(1, 'a')\n",
    "a class for pytest": "class TestAdd:\n    def test_add(self):\n"
    "        assert add(1, 2) == 3\n",
    "unittest": "import unittest\n\nclass T(unittest.TestCase):\n    def setUp(self):\n"
    "        self.sum = 3\n    def test_add(self):\n"
    "        self.assertEqual(add(1, 2), self.sum)\n\n"
    "if __name__ == '__main__':\n    unittest.main()\n",
    "APPS with fn_name": {"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]},
    "LiveCodeBench": [{"input": "1\n2", "output": "3", "testtype": "functional", "fn_name": "add"}],
    "a loop": "for a, b in [(1, 2), (2, 1)]:\n    assert add(a, b) == 3",
    "a raise": "if add(1, 2) != 3:\n    raise ValueError",
    "a check that is called": "def verify(f):\n    assert f(1, 2) == 3\nverify(add)",
}
PROGRAMS = {
    "APPS as JSON": '{"inputs": ["1 2\\n"], "outputs": ["3\\n"]}',
    "TACO": {"inputs": ["1 2\n", "2 2\n"], "outputs": ["3\n", "4"]},
    "CodeContests": {"input": ["1 2"], "output": ["3"]},
    "SYNTHETIC-1": {"language": "python", "test_cases": [{"input": "1 2", "output": "3"}]},
    "cases": [{"input": "1 2", "output": "3", "type": "stdin_stdout"}],
}


@pytest.mark.parametrize("tests", [*CALLED.values(), *PROGRAMS.values()], ids=[*CALLED, *PROGRAMS])
def test_every_form_of_public_datasets_tells_right_from_wrong(tests: Any) -> None:
    right = PROGRAM if tests in PROGRAMS.values() else RIGHT
    completions = [right, WRONG, IDLE, ""]
    columns = {"tests": [tests] * 4, "entry_point": ["add"] * 4}
    found = scores("code", completions, {}, **columns)
    assert found[0] == 1.0
    assert max(found[2:]) == 0.0
    assert found[1] < 1.0


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        (CALLED["HumanEval"], "nothing calls check, and the row has no entry_point"),
        ("def check(candidate):\n    assert True", "check tests nothing"),
        ("assert True", "they test nothing"),
        ("assert (add(1, 2) == 9, 'a tuple')", "they test nothing"),
        ("assert add(1, 2) == 9 or True", "they test nothing"),
        ("add(1, 2)", "they test nothing"),
        ("# todo", "they test nothing"),
        (["add == 0 or True", "1 + 1 == 3"], "they test nothing"),
        (["", "# todo"], "they test nothing"),
        ([1, 2], "list is not a form of tests"),
        (7, "int is not a form of tests"),
        ({"a": 1}, "a mapping without inputs and outputs"),
        ({"inputs": ["1"], "outputs": []}, "they have 1 inputs and 0 outputs"),
        ({"inputs": ["1"], "outputs": [" "]}, "an expected output is blank"),
        ({"inputs": [[1]], "outputs": [[1]], "type": "functional"}, "no fn_name says which"),
        ({"input": "1", "output": "2", "type": "interactive"}, "type 'interactive' is not known"),
        ("from your_module import add\nassert add(1, 2) == 3", "import your_module, which is not"),
        ("def test_a(tmp_path):\n    assert add(1, 2) == 3", "test_a takes 'tmp_path'"),
        ("async def test_a():\n    assert add(1, 2) == 3", "test_a is asynchronous"),
        ("import pytest\n@pytest.fixture\ndef a(): pass\nassert add(1, 2)", "use pytest.fixture"),
        ("def test_a():\n    print(add(1, 2))", "test_a tests nothing"),
        (
            "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        add(1)",
            "T.test_a tests nothing",
        ),
        ("assert (", "they are not valid Python"),
    ],
)
def test_tests_that_are_not_understood_are_refused_with_the_reason(tests: Any, reason: str) -> None:
    with pytest.raises(DataError, match="cannot use these tests, because") as refused:
        read_tests(tests)
    assert reason in refused.value.what


def test_a_reference_that_is_not_understood_is_refused_by_row_before_training() -> None:
    rows = [{"tests": "assert f(1)", "answer": "5"}, {"tests": "# todo", "answer": "x^2"}]
    with pytest.raises(DataError, match=r"^row 2 of data\.jsonl: the reward code cannot use these"):
        check_rows([Asked("code")], rows, "data.jsonl")
    with pytest.raises(DataError, match=r"row 2 of data\.jsonl: .*cannot use the reference 'x\^2'"):
        check_rows([Asked("length", args={"max": 3}), Asked("numeric")], rows, "data.jsonl")
    check_rows([Asked("exact_match")], rows, "data.jsonl")


def test_data_without_any_reference_is_refused_unless_another_reward_applies() -> None:
    rows: list[dict[str, Any]] = [{"answer": None, "tests": ""}, {"answer": None, "tests": None}]
    with pytest.raises(DataError, match=r"no row of d has a reference for numeric or code"):
        check_rows([Asked("numeric"), Asked("code")], rows, "d")
    check_rows([Asked("numeric"), Asked("length", args={"max": 3})], rows, "d")
    check_rows([Asked("numeric")], [*rows, {"answer": "3", "tests": None}], "d")


def test_a_completion_may_continue_the_code_of_its_prompt() -> None:
    prompt = "from typing import List\n\ndef add(a: int, b: int) -> int:\n    '''The sum.'''\n"
    given = {"tests": [CALLED["HumanEval"]] * 2, "entry_point": ["add"] * 2}
    found = made("code")(
        prompts=[prompt] * 2, completions=["    return a + b\n", "    return a - b\n"], **given
    )
    assert found == [1.0, 0.0]


def test_code_before_the_tests_runs_before_them() -> None:
    tests = ["assert add(ONE, 2) == 3"]
    assert score("code", RIGHT, tests=tests, test_setup_code="ONE = 1") == 1.0
    assert (
        score("code", RIGHT, tests=["assert add(pi, 0) > 3"], test_imports=["from math import pi"])
        == 1.0
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            "1. The code:\n\n   ```python\n   def add(a, b):\n       return a + b\n   ```\nDone",
            RIGHT,
        ),
        ("> ```py\n> def add(a, b):\n>     return a + b\n> ```", RIGHT),
        ("~~~python\ndef add(a, b):\n    return a + b\n~~~", RIGHT),
        ("````python\ndef add(a, b):\n    '''\n```\n    '''\n    return a + b\n````", RIGHT),
        ("```python\ndef add(a, b):\n    return a + b", RIGHT),
        (
            "<think>\n```py\nx\n```\n</think>\n```py\ndef add(a, b):\n    return a + b\n```",
            RIGHT,
        ),
        ("```{.python}\nx = 1\n```\n```\ndef add(a, b):\n    return a + b\n```", RIGHT),
        ("```python title=a\ndef add(a, b):\n    return a + b\n```\n```sh\nls\n```", RIGHT),
        ("It is ```def add(a, b): return a + b```", IDLE),
    ],
)
def test_fences_are_those_of_commonmark(text: str, code: str) -> None:
    assert score("code", text, tests="assert add(1, 2) == 3") == float(code is RIGHT)


TRICKED = """
import math, pytest, unittest
assert f(1) == 2
assert abs(f(2) - 3) < 1e-6
assert math.isclose(f(1), 2)
assert isinstance(f(1), int) and len([f(1)] * f(1)) == 2
def check(candidate):
    assert candidate(1) == pytest.approx(2)
class T(unittest.TestCase):
    def test_f(self):
        self.assertEqual(f(1), 2)
"""


def test_no_trick_passes_a_test() -> None:
    assert len(TRICKS) >= 20
    sources = [*TRICKS.values(), "def f(x):\n    return x + 1\n"]
    columns = {"tests": [TRICKED] * len(sources), "entry_point": ["f"] * len(sources)}
    *tricked, honest = scores("code", sources, {}, **columns)
    assert {what: passed for what, passed in zip(TRICKS, tricked, strict=True) if passed} == {}
    assert honest == 1.0


HONEST = {
    "a decimal": (
        "from decimal import Decimal\ndef f(): return Decimal('0.5')",
        "assert f() == 0.5",
    ),
    "a fraction": (
        "from fractions import Fraction\ndef f(): return Fraction(1, 2)",
        "assert f() == 0.5\nassert abs(f() - 0.5) < 1e-9",
    ),
    "a counter": (
        "from collections import Counter\ndef f(): return Counter('aab')",
        "assert f() == {'a': 2, 'b': 1}",
    ),
    "a class with its own equality": (
        "class V:\n    def __init__(self, x): self.x = x\n"
        "    def __eq__(self, o): return self.x == o.x\n"
        "    def __add__(self, o): return V(self.x + o.x)\n"
        "    def __mul__(self, k): return V(self.x * k)",
        "assert V(1) + V(2) == V(3)\nassert V(1) * 3 == V(3)\nassert V(1) != None\n"
        "assert V(2).x == 2",
    ),
    "a function with a builtin's name": ("def sum(a, b): return a + b", "assert sum(10, 15) == 25"),
    "future imports": (
        "from __future__ import annotations\ndef f(x: unknown): return x",
        "assert f(1) == 1",
    ),
    "a named tuple": (
        "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\ndef f(): return P(1)",
        "assert f() == (1,)\nassert f().x == 1",
    ),
    "an enumeration and a log": (
        "import enum, logging\nE = enum.Enum('E', 'a b')\nlogging.warning('x')\n"
        "def f(): return E.a",
        "assert f() == E.a\nassert f().value == 1",
    ),
    "a method": (
        "class Solution:\n    def add(self, a, b): return (a, b)",
        {"fn_name": "add", "inputs": [[1, 2]], "outputs": [[1, 2]]},
    ),
    "a float in place of an integer": (
        "def f(x): return x / 2",
        {"fn_name": "f", "inputs": [[2], [0]], "outputs": [1, [0]]},
    ),
    "a program that reads the file 0": ("print(sum(map(int, open(0).read().split())))",
                                        {"inputs": ["1 2"], "outputs": ["3"]}),
    "a program that exits": (
        "import sys\ndef main():\n    sys.stdout.write(sys.stdin.buffer.readline().decode())\n"
        "    sys.exit(0)\nif __name__ == '__main__':\n    main()",
        {"inputs": ["a  b\nc"], "outputs": ["a b \n\n"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "tests"), HONEST.values(), ids=HONEST)
def test_what_protects_tests_leaves_honest_code_alone(source: str, tests: Any) -> None:
    assert score("code", source, tests=tests) == 1.0


def test_the_harness_lends_a_candidate_nothing() -> None:
    annotated = "def f(x: unknown):\n    return x"
    assert score("code", annotated, tests="assert f(1) == 1") == 0.0, "no future import of ours"
    for name in ("os", "json", "Candidate", "orders", "__file__"):
        assert score("code", f"{name}\ndef f(): return 1", tests="assert f() == 1") == 0.0, name


def test_every_image_has_the_parser_of_markdown() -> None:
    locks = (Path(__file__).parents[3] / "images").glob("*/*.lock")
    texts = [lock.read_text(encoding="utf-8") for lock in locks]
    stacks = [text for text in texts if "\ntrl==" in text]
    assert stacks
    assert all("\nmarkdown-it-py==" in text for text in stacks)
