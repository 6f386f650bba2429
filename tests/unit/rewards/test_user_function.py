"""Your own reward functions: how they are loaded and called, and how they fail."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers.rewards import Asked, chat, made

from aligntune.errors import AligntuneError, DataError, RewardError, SpecError
from aligntune.rewards import build


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
        ("raise KeyboardInterrupt", RewardError, "line 1: KeyboardInterrupt"),
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


def test_a_call_without_a_trainer_gets_its_last_state_and_functions_that_log_nothing(
    own: Callable[..., Any],
) -> None:
    reward = own(
        "def f(completions, trainer_state, log_metric, log_extra, answer):\n"
        "    log_metric('a', 1.0), log_extra('b', answer)\n    return [trainer_state.step]"
    )
    logged: list[Any] = []
    log = {"log_metric": lambda *a: logged.append(a), "log_extra": lambda *a: logged.append(a)}
    sample = {"prompts": ["p"], "completions": ["c"], "answer": ["x"]}
    assert reward(**sample, trainer_state=SimpleNamespace(step=7), **log) == [7.0]
    assert logged == [("a", 1.0), ("b", ["x"])]
    assert reward(**sample) == [7.0]


def test_a_coroutine_function_works_where_a_loop_runs(own: Callable[..., Any]) -> None:
    reward = own("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return [1]")

    async def notebook() -> Any:
        return reward(prompts=["p"], completions=["c"])

    assert asyncio.run(notebook()) == [1.0]


def test_a_score_is_finite_after_its_weight_too(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("def f():\n    return [1e30]\n", encoding="utf-8")
    (reward,) = build([Asked(f"{tmp_path}/big.py:f", weight=1e20)], Path)
    with pytest.raises(RewardError, match=r"returned 1e\+30, which times its weight 1e\+20 is inf"):
        reward(prompts=["p"], completions=["c"])


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
