"""The code reward: what it gives, and what no candidate can do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hostile import ENDLESS, FAKES, HELP, REFUSED
from tests.helpers.rewards import made, score, scores

from aligntune.errors import DataError
from aligntune.rewards.sandbox.child import ALLOWED
from aligntune.rewards.sandbox.parent import Limits, Program, Step, Verdict, run

ADD_ONE = "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    ("completion", "tests", "expected"),
    [
        (ADD_ONE, "assert f(1) == 2\nassert f(2) == 3", 1.0),
        (f"Here it is:\n```python\n{ADD_ONE}```\nand\n```sh\nls\n```", ["assert f(1) == 2"], 1.0),
        ("def f(x):\n    return 2", "y = 2\nassert f(1) == y\nassert f(2) == 3", 0.5),
        ("def f(x):\n    raise OSError", ["assert f(1)", "import os", "assert os"], 0.5),
        (ADD_ONE, "def check(g):\n    assert g(1) == 2\ncheck(f)", 1.0),
        ("this is no code", "assert f", 0.0),
        (ADD_ONE, None, None),
        (ADD_ONE, "", None),
        ("x = '\ud800'", "assert x", 0.0),
    ],
)
def test_code_gives_the_share_of_tests_that_pass(
    completion: str, tests: Any, expected: float | None
) -> None:
    assert score("code", completion, tests=tests) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nasync def g():\n    await asyncio.sleep(0)\nasyncio.run(g())",
        "import dataclasses, random, re, sqlite3, ssl, tempfile, typing\nrandom.random()",
        "@__import__('dataclasses').dataclass\nclass A:\n    x: 'int'\nA(1)",
        "import sys\nprint('x' * 10**6)\nassert sys.stdin.read() == ''",
        "import os\nassert not os.listdir('.') and not {'PATH', 'HOME'} & set(os.environ)",
    ],
)
def test_ordinary_programs_run(source: str) -> None:
    assert score("code", f"{source}\nready = True", tests="assert ready") == 1.0


def test_candidates_run_at_once_and_keep_their_order() -> None:
    sleep = "import time as ready\nready.sleep(0.4)\n"
    began = time.monotonic()
    found = scores("code", [sleep, "1/0", sleep], {"parallel": 3}, tests=["assert ready"] * 3)
    assert found == [1.0, 0.0, 1.0]
    assert time.monotonic() - began < 0.8


@pytest.mark.parametrize("source", FAKES.values(), ids=FAKES.keys())
def test_a_pass_cannot_be_faked_by_ending_or_printing(source: str) -> None:
    assert score("code", source, tests="assert f(1) == 2") == 0.0


def test_candidates_without_end_are_ended_in_time() -> None:
    programs = [Program(source, (Step("assert True", True),)) for source in ENDLESS.values()]
    began = time.monotonic()
    assert run(programs, Limits(0.4, 2**28), len(programs)) == [Verdict(0, True)] * len(programs)
    assert time.monotonic() - began < 2


def test_endless_candidates_cost_their_score_and_not_the_run() -> None:
    """Each has its own limit, so a batch may take longer than a call of a reward may else."""
    reward = made("code", {"timeout": 0.4, "parallel": 1}, timeout=0.5)
    found = reward(
        prompts=["p"] * 3,
        completions=["while True: pass", "while True: pass", ADD_ONE],
        tests=["assert f(1) == 2"] * 3,
    )
    assert found == [0.0, 0.0, 1.0]


def test_memory_is_limited() -> None:
    found = score("code", "x = bytearray(10**9)", {"memory_mb": 256}, tests="assert x")
    assert found == 0.0


def test_a_candidate_is_refused_whatever_is_not_its_own(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine", encoding="utf-8")
    tests = [f"assert refused({action!r})" for action in REFUSED.values()]
    steps = tuple(Step(test, counts=True) for test in tests)
    source = HELP % str(kept)
    singly = [Program(source, (step,)) for step in steps]
    found = dict(zip(REFUSED, run(singly, Limits(5, 2**29)), strict=True))
    assert [what for what, verdict in found.items() if not verdict.passed] == []
    assert kept.read_text(encoding="utf-8") == "mine"
    assert sorted(tmp_path.iterdir()) == [kept]


def test_the_same_actions_succeed_where_nothing_confines_them() -> None:
    """So that the test before this one tests the filter and not the machine."""
    harmless = ("a process", "a thread", "a file of its own", "a folder", "a socket", "many files")
    source = HELP % "/nowhere" + "".join(
        f"print(refused({REFUSED[what]!r}))\n" for what in harmless
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import os, tempfile\nos.chdir(tempfile.mkdtemp())\n{source}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "True" not in done.stdout.split()


def test_no_child_is_left() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()  # math-verify's may be there
    score("code", "import os\nos.fork()", tests="assert os")
    assert children.read_text() == before


def test_the_allowed_calls_are_numbered_once() -> None:
    numbers = re.findall(r"(\w+)=(\d+)", ALLOWED)
    assert len({number for _, number in numbers}) == len(numbers) == len(dict(numbers))


def test_tests_that_are_no_python_are_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="these tests, because they are not valid Python"):
        score("code", "x", tests="assert (")
