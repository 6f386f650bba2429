"""PPO inside the TRL image: each check of tests/containers/ppo is a test here."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from tests.containers.runs import ROOT, Bench, in_image

CHECKS = Path(__file__).parent / "ppo"


def named() -> list[str]:
    """The checks' names; they cannot be imported where there is no torch."""
    trees = [ast.parse(path.read_text()) for path in sorted(CHECKS.glob("*.py"))]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [each.name for each in functions if each.name.startswith("check_")]


@pytest.fixture(scope="session")
def results(
    engine: DockerClient, image: Callable[[str, str], str], bench: Bench
) -> dict[str, dict[str, Any]]:
    """What the checks found, by name; they run once, in one container."""
    folder = bench.folder / "tests" / "containers" / "ppo"
    shutil.copytree(CHECKS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    helpers = bench.folder / "tests" / "helpers"
    helpers.mkdir()
    for name in ("ppo_toy.py", "tiny.py"):
        shutil.copy(ROOT / "tests" / "helpers" / name, helpers)
    bench.give_away()
    printed = in_image(image("trl", "cpu"), folder / "run.py", bench)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"check"')]
    return {line["check"]: line for line in lines}


@pytest.mark.parametrize("name", named())
def test_ppo(name: str, results: dict[str, dict[str, Any]]) -> None:
    assert results[name]["error"] is None, results[name]["error"]
