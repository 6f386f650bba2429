"""The GPU kit, rehearsed: every step runs to its end on the CPU, and notices what is broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.containers.runs import ROOT
from tests.gpu.__main__ import STEPS
from tests.gpu.stacks import remove_containers

RUN = ROOT / "tests" / "gpu" / "run.sh"
LIMIT = 1200


@pytest.fixture(scope="module", autouse=True)
def images(image: Callable[[str, str], str]) -> None:
    """Both are there, so that the kit's time is its own."""
    for backend, flavour in (("trl", "cpu"), ("unsloth", "cuda")):
        image(backend, flavour)


def rehearse(output: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the steps by name, and the output of ``run.sh --rehearse``."""
    command = ["bash", str(RUN), "--rehearse", "--output", str(output), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    results = json.loads((output / "results.json").read_text())
    return done.returncode, results["steps"], done.stdout + done.stderr


def test_every_step_is_rehearsed(tmp_path: Path) -> None:
    code, steps, told = rehearse(tmp_path)
    assert code == 0, told
    assert list(steps) == list(STEPS)
    for name, step in steps.items():
        assert step["status"] == "ended"
        assert any(row["verdict"] == "ok" for row in step["rows"]), name
    # What a CPU cannot show is named.
    assert any(row["verdict"] == "left out" for row in steps["memory"]["rows"])


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("facts", "facts"),
        ("matrix", "matrix"),
        ("checkpointing", "matrix"),
        ("memory", "memory"),
        ("speed", "speed"),
        ("resume", "resume"),
    ],
)
def test_a_planted_fault_turns_its_row_red(fault: str, step: str, tmp_path: Path) -> None:
    code, steps, told = rehearse(tmp_path, "--only", step, "--plant", fault)
    assert code == 1, told
    wrong = [row for row in steps[step]["rows"] if row["verdict"] == "wrong"]
    assert wrong, told
    assert all("the step ends" not in row["name"] for row in wrong), told


def test_a_kit_that_is_killed_keeps_the_rows_it_had(tmp_path: Path) -> None:
    command = ["bash", str(RUN), "--rehearse", "--output", str(tmp_path), "--only", "facts,memory"]
    results = tmp_path / "results.json"
    nowhere, environment = subprocess.DEVNULL, {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=nowhere, env=environment, start_new_session=True) as kit:
        until = time.monotonic() + LIMIT
        while time.monotonic() < until:
            if results.exists() and "memory" in json.loads(results.read_text())["steps"]:
                break
            time.sleep(0.05)
        os.killpg(kit.pid, signal.SIGKILL)
    for work in tmp_path.glob("aligntune-gpu-kit-*"):
        remove_containers(work)  # or its step would keep the machine busy
    steps = json.loads(results.read_text())["steps"]
    assert steps["facts"]["status"] == "ended"
    assert steps["facts"]["rows"]
    assert steps["memory"]["status"] == "running"
