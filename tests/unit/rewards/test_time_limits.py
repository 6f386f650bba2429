"""A reward that takes too long is ended."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.helpers.rewards import ROOT

from aligntune.errors import RewardError
from aligntune.rewards.guard.timeout import Limit


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
