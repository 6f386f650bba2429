"""Built-in rewards on rows in the shape of six public datasets, scored as a person would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from tests.helpers.rewards import made

ROWS = 20


@dataclass(frozen=True)
class Row:
    """A row's columns, a right completion and a wrong one."""

    columns: dict[str, Any]
    right: str
    wrong: str


TASKS = [
    # name, body, arguments, value, a wrong body
    ("double", "return x * 2", "(3,)", "6", "return x + 2"),
    ("negate", "return -x", "(3,)", "-3", "return x"),
    ("is_even", "return x % 2 == 0", "(4,)", "True", "return x % 2 == 1"),
    ("upper", "return x.upper()", "('ab',)", "'AB'", "return x.lower()"),
    ("reverse", "return x[::-1]", "([1, 2],)", "[2, 1]", "return x"),
    ("first", "return x[0]", "('xyz',)", "'x'", "return x[-1]"),
    ("count", "return len(x)", "([4, 4],)", "2", "return len(set(x))"),
    ("square", "return x ** 2", "(5,)", "25", "return x * 2"),
    ("half", "return x / 2", "(5,)", "2.5", "return x // 2"),
    ("as_set", "return set(x)", "([1, 1, 2],)", "{1, 2}", "return list(x)"),
    ("keys", "return sorted(x)", "({'b': 1, 'a': 2},)", "['a', 'b']", "return list(x)"),
    ("total", "return sum(x)", "([1, 2, 3],)", "6", "return max(x)"),
    ("nothing", "return None", "(1,)", "None", "return 0"),
    ("pair", "return (x, x)", "(1,)", "(1, 1)", "return [x, x]"),
    ("words", "return x.split()", "('a b',)", "['a', 'b']", "return list(x)"),
    ("longest", "return max(x, key=len)", "(['a', 'bc'],)", "'bc'", "return min(x, key=len)"),
    ("digits", "return sum(map(int, str(x)))", "(123,)", "6", "return len(str(x))"),
    ("swap", "return {v: k for k, v in x.items()}", "({1: 2},)", "{2: 1}", "return x"),
    ("is_palindrome", "return x == x[::-1]", "('abc',)", "False", "return True"),
    ("factorial", "return 1 if x < 2 else x * factorial(x - 1)", "(5,)", "120", "return x"),
]


def function(name: str, body: str) -> str:
    return f"Here you go.\n\n```python\ndef {name}(x):\n    {body}\n```\nIt works."


def human_eval() -> list[Row]:
    return [
        Row(
            {
                "entry_point": name,
                "tests": "\n\nMETADATA = {'author': 'x'}\n\n\ndef check(candidate):\n"
                f"    assert candidate(*{arguments}) == {value}, 'This prints'\n"
                "    assert True, 'This prints if this assert fails 2'\n",
            },
            function(name, body),
            function(name, wrong),
        )
        for name, body, arguments, value, wrong in TASKS
    ]


def mbpp() -> list[Row]:
    return [
        Row(
            {
                "tests": [f"assert {name}(*{arguments}) == {value}"] * 3,
                "test_setup_code": "",
            },
            function(name, body),
            function(name, wrong),
        )
        for name, body, arguments, value, wrong in TASKS
    ]


def apps() -> list[Row]:
    rows = []
    for n in range(ROWS):
        cases = {
            "inputs": [f"{n}\n{n + 1} {k}\n" for k in (1, 2)],
            "outputs": [f"{2 * n + 1 + k}\n" for k in (1, 2)],
        }
        program = "n = int(input())\na, b = map(int, input().split())\nprint({})"
        rows.append(
            Row(
                {"tests": json.dumps(cases)},
                f"```python\n{program.format('n + a + b')}\n```",
                f"```python\n{program.format('n + a')}\n```",
            )
        )
    return rows


GSM8K = [
    # reference, right, wrong
    ("72", "The answer is 72.", "The answer is 73."),
    ("10", "#### 10", "#### 100"),
    ("5", "She has $5 left.", "She has $50 left."),
    ("42", "So 6 * 7 = 42 apples.", "So 6 * 7 = 24 apples."),
    ("1,234", "In total 1234.", "In total 234."),
    ("1234", "In total 1,234 people.", "In total 1,235 people."),
    ("70000", "He made $70,000", "He made $70"),
    ("0.5", "1/2 of it", "2/1 of it"),
    ("18", "**Answer: 18**", "**Answer: 8**"),
    ("3", "Answer: 3 bolts", "Answer: 3 or 4"),
    ("-4", "It drops by x = -4", "It drops by x = 4"),
    ("25", "25%", "2.5%"),
    ("540", "540 meters", "54 meters"),
    ("20", r"\boxed{20}", r"\boxed{20x}"),
    ("64", "64 pages", "2 pages in 6 books"),
    ("260", "260 sheep", "260 - 20"),
    ("160", "2.6e2 - 1e2 = 160", "1.6e3"),
    ("45", "45 km/h", "45 and 46"),
    ("460", "$460.00", "$460.50"),
    ("366", "That makes 366!", "That makes 366 + 1"),
]


def gsm8k() -> list[Row]:
    return [
        Row({"answer": f"It is so. <<1+1=2>>\n#### {wanted}"}, right, wrong)
        for wanted, right, wrong in GSM8K
    ]


MATH = [
    (r"\frac{3}{4}", r"\boxed{0.75}", r"\boxed{\frac{4}{3}}"),
    (r"\sqrt{8}", r"\boxed{2\sqrt{2}}", r"\boxed{2\sqrt{3}}"),
    (r"(x+1)^2", r"\boxed{x^2+2x+1}", r"\boxed{x^2+1}"),
    ("12", r"thus $\boxed{12}$.", r"thus $\boxed{21}$."),
    (r"\frac{\pi}{2}", r"\boxed{\pi/2}", r"\boxed{2\pi}"),
    ("1000", r"\boxed{10^3}", r"\boxed{10^2}"),
    ("(3,4)", r"\boxed{(3, 4)}", r"\boxed{(4, 3)}"),
    (r"[0,1)", r"\boxed{[0,1)}", r"\boxed{(0,1)}"),
    (r"\{1,2\}", r"\boxed{\{2,1\}}", r"\boxed{\{1,3\}}"),
    ("-7", r"\boxed{-7}", r"\boxed{7}"),
    (r"2^{10}", r"\boxed{1024}", r"\boxed{20}"),
    (r"\frac{1}{3}", r"\boxed{\dfrac13}", r"\boxed{0.3}"),
    ("5", r"$x = \boxed{5}$", r"$x = \boxed{-5}$"),
    (r"x=2", r"\boxed{x=2}", r"\boxed{x=3}"),
    (r"\sqrt{2}", r"\boxed{\sqrt{2}}", r"\boxed{\sqrt{3}}"),
    (r"3+4i", r"\boxed{4i+3}", r"\boxed{3-4i}"),
    ("0", r"\boxed{0}", r"\boxed{1}"),
    (r"\log_2 8", r"\boxed{3}", r"\boxed{4}"),
    (r"\binom{4}{2}", r"\boxed{6}", r"\boxed{4}"),
    ("1.5", r"\boxed{\frac{3}{2}}", r"\boxed{\frac{2}{3}}"),
]


def mathematics() -> list[Row]:
    return [Row({"answer": wanted}, right, wrong) for wanted, right, wrong in MATH]


def formats() -> list[Row]:
    return [
        Row(
            {},
            f'Here:\n```json\n{{"name": "n{n}", "price": {n}.{n % 10}{n % 10}}}\n```',
            f'{{"name": "n{n}", "price": {n}.00{n % 9 + 1}}}',
        )
        for n in range(ROWS)
    ]


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "price": {"type": "number", "multipleOf": 0.01}},
    "required": ["name", "price"],
}


@pytest.mark.parametrize(
    ("name", "args", "rows"),
    [
        ("code", {}, human_eval()),
        ("code", {}, mbpp()),
        ("code", {}, apps()),
        ("numeric", {}, gsm8k()),
        ("math", {}, mathematics()),
        ("json_schema", {"schema": SCHEMA}, formats()),
    ],
    ids=["HumanEval", "MBPP", "APPS", "GSM8K", "MATH", "structured output"],
)
def test_right_answers_score_1_and_wrong_ones_0(
    name: str, args: dict[str, Any], rows: list[Row]
) -> None:
    assert len(rows) == ROWS
    asked = [(row, text, text is row.right) for row in rows for text in (row.right, row.wrong)]
    if name == "code":  # a process each: half are right, half are wrong
        asked = [asked[2 * n + n % 2] for n in range(ROWS)]
    found = made(name, args)(
        prompts=["p"] * len(asked),
        completions=[text for _, text, _ in asked],
        **{key: [row.columns[key] for row, _, _ in asked] for key in rows[0].columns},
    )
    strange = [
        (text, score)
        for (_, text, right), score in zip(asked, found, strict=True)
        if score != float(right)
    ]
    assert strange == []
