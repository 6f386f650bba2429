"""Rewards: what each gives, what is refused, and what no candidate can do."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.hostile import ENDLESS, FAKES, HELP, REFUSED

from aligntune.errors import AligntuneError, DataError, RewardError, SpecError
from aligntune.rewards import build, check, columns, labels, names
from aligntune.rewards.builtin.mathematics import mathematician
from aligntune.rewards.guard.timeout import Limit
from aligntune.rewards.sandbox.child import ALLOWED
from aligntune.rewards.sandbox.parent import Limits, Program, Step, Verdict, run

ROOT = Path(__file__).parents[3]
DOCUMENTED = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
ADD_ONE = "def f(x):\n    return x + 1\n"


@dataclass(frozen=True)
class Asked:
    """A RewardSpec, as far as rewards are concerned."""

    name: str | None = None
    model: str | None = None
    revision: str | None = None
    weight: float = 1.0
    timeout: float = 20.0
    args: dict[str, Any] = field(default_factory=dict)


def made(
    name: str, args: dict[str, Any] | None = None, timeout: float = 20.0
) -> Callable[..., Any]:
    (reward,) = build([Asked(name, timeout=timeout, args=args or {})], Path)
    return reward


def scores(name: str, completions: list[Any], args: dict[str, Any], **given: Any) -> Any:
    """What a built-in gives, called as TRL calls it."""
    return made(name, args)(
        prompts=["p"] * len(completions),
        completions=completions,
        completion_ids=[[1, 2, 3]] * len(completions),
        **given,
        trainer_state=None,
        log_metric=print,
    )


def score(name: str, completion: Any, args: dict[str, Any] | None = None, **given: Any) -> Any:
    return scores(name, [completion], args or {}, **{key: [one] for key, one in given.items()})[0]


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Callable[..., Any]]:
    """``own(source, **args)``: the reward ``f`` of a user's file."""

    def load(source: str, timeout: float = 20.0, **args: Any) -> Callable[..., Any]:
        number = len(list(tmp_path.iterdir()))
        path = tmp_path / f"mine{number}.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return made(f"{path}:f", args, timeout)

    return load


# Built-in rewards


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


# Code, and what is contained


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
    mathematician().stop()
    score("code", "import os\nos.fork()", tests="assert os")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_allowed_calls_are_numbered_once() -> None:
    numbers = re.findall(r"(\w+)=(\d+)", ALLOWED)
    assert len({number for _, number in numbers}) == len(numbers) == len(dict(numbers))


def test_tests_that_are_no_python_are_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="these tests, because they are not valid Python"):
        score("code", "x", tests="assert (")


# What is refused before anything runs


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked("exactmatch"), "unknown reward 'exactmatch'; did you mean 'exact_match'"),
        (Asked("/x/mine.py"), "does not name a function"),
        (Asked("mine.py:f"), "does not name a function"),
        (Asked(), "a name or a model"),
        (Asked("math", "org/rm"), "a name or a model"),
        (Asked("math", args={"colum": "x"}), "math has no argument 'colum'; did you mean 'column'"),
        (
            Asked("numeric", args={"tolerance": "much"}),
            "numeric: tolerance is 'much'. Input should",
        ),
        (Asked("numeric", args={"tolerance": -1.0}), "numeric: tolerance is -1"),
        (Asked("length", args={"unit": "lines", "max": 3}), "unit is 'lines'"),
        (Asked("length", args={"target": True}), "target is True"),
        (Asked("length"), "needs either target"),
        (Asked("length", args={"min": 5, "max": 3}), "min is 5, but max is 3"),
        (Asked("regex"), "regex needs the argument 'pattern'"),
        (Asked("regex", args={"pattern": "("}), "not a valid regular expression"),
        (Asked("json_schema", args={"schema": "x"}), "schema is 'x'"),
        (Asked("code", args={"memory_mb": 1}), "memory_mb is 1"),
        (Asked(model="org/rm", args={"batch_size": 0}), "reward rm: batch_size is 0"),
        (Asked(model="org/rm", args={"batchsize": 1}), "did you mean 'batch_size'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_looking_at_it(asked: Asked, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        check([asked])


def test_a_schema_that_is_none_is_refused_before_training() -> None:
    with pytest.raises(SpecError, match="not a valid JSON schema"):
        made("json_schema", {"schema": {"type": "objekt"}})


def test_the_host_learns_names_columns_and_labels_without_torch() -> None:
    program = (
        "import sys, aligntune.rewards as r\nr.check([])\nprint(r.names())\n"
        "print(sorted({'torch', 'math_verify', 'jsonschema', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "shared")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(names()), "[]"]
    asked = [
        Asked("regex", args={"pattern": "a"}),
        Asked("regex", args={"pattern": "b"}),
        Asked("/x/mine.py:math"),
        Asked("math", args={"column": "solution"}),
        Asked("code"),
        Asked(model="org/judge"),
        Asked(model="/models/judge"),
    ]
    found = labels(asked)
    assert found == ["regex", "regex_2", "math", "math_2", "code", "judge", "judge_2"]
    assert columns(asked) == {"math_2": "solution", "code": "tests"}


# One's own


def test_a_function_gets_what_its_signature_takes(own: Callable[..., Any]) -> None:
    reward = own(
        "def f(completions, answer, bonus=0):\n    return [a + bonus for a in answer]", bonus=2
    )
    given = {"completion_ids": [[1]], "answer": [1], "other": ["x"], "trainer_state": None}
    assert reward(prompts=["p"], completions=["c"], **given) == [3.0]
    assert reward.__name__ == "f"
    takes_all = own("def f(**given):\n    return [len(given)]")
    assert takes_all(prompts=["p"], completions=["c"], **given) == [6.0]


def test_a_coroutine_function_is_awaited(own: Callable[..., Any]) -> None:
    reward = own(
        "import asyncio\nasync def f(prompts):\n    await asyncio.sleep(0)\n    return [1]"
    )
    assert reward(prompts=["p"], completions=["c"]) == [1.0]


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_reward_test.py").write_text("VALUE = 7\n", encoding="utf-8")
    path = tmp_path / "mine.py"
    path.write_text("from beside_reward_test import VALUE\ndef f(prompts):\n    return [VALUE]\n")
    assert made(f"{path}:f")(prompts=["p"], completions=["c"]) == [7.0]


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        ("def f(:", RewardError, "does not import: line 1"),
        (
            "import os\nimport nothing_like_it",
            RewardError,
            "line 2: ModuleNotFoundError: No module",
        ),
        ("import sys\nsys.exit(3)", RewardError, "line 2: SystemExit"),
        ("import time\ntime.sleep(1000)", RewardError, "did not import within 0.2 s"),
        ("def g():\n    pass", SpecError, "has no function 'f'"),
        ("f = 3", SpecError, "has no function 'f'"),
        ("def f(prompts, /):\n    pass", SpecError, "by position only"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_before_training(
    own: Callable[..., Any], source: str, kind: type[AligntuneError], said: str
) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        own(source, timeout=0.2)


def test_a_missing_file_and_an_unknown_argument_are_refused(own: Callable[..., Any]) -> None:
    with pytest.raises(SpecError, match=r"no such reward file: /nowhere/x\.py"):
        made("/nowhere/x.py:f")
    with pytest.raises(SpecError, match="no argument 'bonsu'; did you mean 'bonus'"):
        own("def f(prompts, bonus=0):\n    pass", bonsu=1)


def test_a_parameter_that_is_no_column_is_told_as_one(own: Callable[..., Any]) -> None:
    reward = own("def f(completions, solution):\n    return [1.0]")
    with pytest.raises(DataError, match=r"column 'solution'.*it has: answer"):
        reward(prompts=["p"], completions=["c"], completion_ids=[[1]], answer=["x"])


# Under guard


BROKEN = {
    "raises": (
        "def f(answer):\n    return [1 / a for a in answer]",
        "the reward f raised ZeroDivisionError: division by zero (*, line 2) for sample 2 of 3 "
        "(prompt 'p1', completion 'c1')",
    ),
    "raises for all": (
        "def f(answer):\n    assert len(answer) < 2\n    return [1]",
        "raised AssertionError (*, line 2) for a batch of 3 samples, starting with",
    ),
    "exits": (
        "import sys\ndef f():\n    sys.exit(2)",
        "raised SystemExit: 2 (*, line 3) for sample 1",
    ),
    "not a number": (
        "def f():\n    return [1, float('nan'), 2]",
        "returned nan for sample 2 of 3 (prompt 'p1', completion 'c1')",
    ),
    "infinite": ("def f():\n    return [1, 2, float('-inf')]", "returned -inf for sample 3 of 3"),
    "too great": ("def f():\n    return [10**400, 2, 3]", "returned inf for sample 1 of 3"),
    "too great for a trainer": (
        "def f():\n    return [1, 1e300, 3]",
        "returned 1e+300, which is infinite in the trainer's float32, for sample 2 of 3",
    ),
    "interrupts": (
        "def f():\n    raise KeyboardInterrupt",
        "raised KeyboardInterrupt (*, line 2) for sample 1",
    ),
    "is cancelled": (
        "import asyncio\nasync def f():\n    raise asyncio.CancelledError",
        "raised CancelledError (*, line 3) for sample 1",
    ),
    "a text": (
        "def f():\n    return ['1', 2, 3]",
        "returned '1' (str), which is not a number, for sample 1",
    ),
    "nothing": (
        "def f():\n    pass",
        "returned None (NoneType), not a list of 3 numbers, for a batch",
    ),
    "one number": ("def f():\n    return 1.0", "returned 1.0 (float), not a list of 3 numbers"),
    "too few": (
        "def f(answer):\n    return [a for a in answer if a]",
        "returned 2 numbers for 3 samples, and 0 for sample 2 of 3 (prompt 'p1', completion",
    ),
    "too many": (
        "def f():\n    return [1] * 9",
        "returned 9 numbers for 3 samples, and 9 for sample 1",
    ),
    "never returns": (
        "import time\ndef f(answer):\n    return [time.sleep(0 if a else 99) or 1 for a in answer]",
        "did not return within 0.3 s for sample 2 of 3 (prompt 'p1', completion 'c1')",
    ),
    "never returns from a pattern": (
        "import re\ndef f():\n    re.fullmatch('(a+)+b', 'a' * 60)",
        "did not return within 0.3 s for sample 1 of 3",
    ),
    "slow together": (
        "import time\ndef f(answer):\n    time.sleep(len(answer) // 2)\n    return [1]",
        "did not return within 0.3 s for 3 samples together, but did for each sample alone",
    ),
}


@pytest.mark.parametrize(("source", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_reward_is_an_error_that_names_it_and_the_sample(
    own: Callable[..., Any], source: str, said: str
) -> None:
    reward = own(source, timeout=0.3)
    with pytest.raises(RewardError) as caught:
        reward(prompts=["p0", "p1", "p2"], completions=["c0", "c1", "c2"], answer=[1, 0, 2])
    wanted = re.escape(said).replace(r"\*", r"[^ ]*mine0.py")
    assert re.search(wanted, caught.value.what), caught.value.what


def test_a_mounted_file_is_told_by_the_host_s_name_for_it(
    own: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNTUNE_INPUT_ROOT", str(tmp_path))
    with pytest.raises(RewardError, match=r"\(/mine0\.py, line 2\)"):
        own("def f():\n    1 / 0")(prompts=["p"], completions=["c"])


def test_long_and_conversational_samples_are_shown_in_short(own: Callable[..., Any]) -> None:
    with pytest.raises(RewardError) as caught:
        own("def f():\n    1 / 0")(
            prompts=[[{"role": "user", "content": "why\nnot"}]], completions=[chat("x" * 10_000)]
        )
    assert r"prompt 'why\nnot', completion 'xxx" in caught.value.what
    assert len(caught.value.what) < 600


def test_scores_may_be_of_any_number_type_or_none(own: Callable[..., Any]) -> None:
    reward = own(
        "from decimal import Decimal\nfrom fractions import Fraction\n"
        "class Tensor:\n    def item(self):\n        return 4\n"
        "def f():\n    return (True, None, Fraction(1, 2), Tensor())"
    )
    assert reward(prompts=["p"] * 4, completions=["c"] * 4) == [1.0, None, 0.5, 4.0]


def test_limits_nest_and_the_outer_goes_on() -> None:
    with Limit(0.3) as outer:
        with Limit(0.05) as inner:
            time.sleep(9)
        assert inner.over
        time.sleep(9)
    assert outer.over
    assert 0.25 < outer.spent < 2


STUCK = """
import ctypes, json, sys, time
from pathlib import Path
from aligntune.rewards.guard.watchdog import Backstop
from aligntune.rewards.guard.guard import Guard

def holds_the_interpreter(prompts, completions):
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

def swallows(prompts, completions):
    while True:
        try:
            time.sleep(9)
        except BaseException:
            pass

def tell(error):
    Path(sys.argv[2]).write_text(json.dumps([error.what, error.exit_code]))

backstop = Backstop(tell, grace=0.2, telling=0.5)
guard = Guard(globals()[sys.argv[1]], sys.argv[1], 0.2, backstop)
assert Guard(lambda **_: [1], "fine", 0.2, backstop)(prompts=["p"], completions=["c"]) == [1.0]
guard(prompts=["p"], completions=["c"])
"""


@pytest.mark.parametrize("name", ["holds_the_interpreter", "swallows"])
def test_what_never_returns_to_the_interpreter_is_told_and_ends_with_the_code(
    name: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK, name, str(tmp_path / "told")],
        env={"PYTHONPATH": str(ROOT / "shared")},
        timeout=20,
    )
    assert done.returncode == RewardError.exit_code
    what, _ = json.loads((tmp_path / "told").read_text(encoding="utf-8"))
    assert what.startswith(f"the reward {name} did not return within 0.2 s for sample 1 of 1 (")


# The docs


def test_the_docs_list_every_reward_with_its_arguments_and_defaults() -> None:
    from inspect import signature

    from aligntune.rewards.catalog import BUILT_IN

    table = DOCUMENTED.partition("## Built-in rewards")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.+?) \|$", table, re.M))
    assert set(rows) == set(BUILT_IN)
    for name, factory in BUILT_IN.items():
        shown = dict(re.findall(r"`(\w+)=([^`]*)`", rows[name]))
        needed = re.findall(r"`(\w+)`", rows[name])
        parameters = signature(factory).parameters.values()
        assert list(shown.items()) == [
            (one.name, yaml.safe_dump(one.default).split("\n")[0])
            for one in parameters
            if one.default is not one.empty
        ], name
        assert needed == [one.name for one in parameters if one.default is one.empty], name


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENTED, re.M | re.S)


def test_the_yaml_of_the_docs_passes_the_check() -> None:
    asked = [
        Asked(**{key: value for key, value in reward.items() if key != "kind"})
        for block in blocks("yaml")
        for reward in yaml.safe_load(block)["rewards"]
    ]
    check(asked)
    assert set(names()) == {one.name for one in asked if one.name and "/" not in one.name}


def test_the_functions_of_the_docs_run(own: Callable[..., Any]) -> None:
    given = {"completion_ids": [[1, 2], [1]], "answer": ["4", None], "trainer_state": None}
    for block in blocks("python"):
        (function, *_) = (
            node.name
            for node in ast.parse(block).body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        )
        reward = own(f"{block}\nf = {function}")
        found = reward(prompts=["2 + 2?", "Why?"], completions=["It is 4", "Because"], **given)
        assert len(found) == 2


def test_every_code_block_of_the_docs_is_tested_here() -> None:
    languages = re.findall(r"^```(\w*)$", DOCUMENTED, re.M)
    assert {language for language in languages if language} == {"yaml", "python"}
    assert len(languages) == 2 * (len(blocks("yaml")) + len(blocks("python")))
