"""The code reward: the fraction of tests that a candidate passes, each in a child process."""

from __future__ import annotations

import ast
import math
from typing import Any

from aligntune.errors import DataError, SpecError
from aligntune.rewards.builtin.form import FENCE
from aligntune.rewards.inputs import column_of, excerpt, text_of
from aligntune.rewards.sandbox.parent import Limits, Program, Step, at_once, run

PYTHON = ("python", "python3", "py")
STARTUP_ALLOWANCE = 1.0
"""Seconds to start a candidate's process, on a busy machine."""


def code(
    *,
    column: str = "tests",
    timeout: float = 5.0,
    memory_mb: int = 512,
    parallel: int | None = None,
) -> Any:
    """The fraction of the tests that the completion's Python code passes, in [0, 1].

    The code is the last fenced block marked as Python, else the last block without a language, else
    the whole completion. Code and tests run in one child process, which is confined as described in
    :mod:`aligntune.rewards.sandbox.child`.

    Args:
        column: the column of tests: Python code, in which every top-level ``assert`` is a test (if
            it has none, the whole code is one test), or a list of tests.
        timeout: seconds for all tests of a candidate.
        memory_mb: memory limit of a candidate in MiB.
        parallel: candidates that run at the same time; null is one per available CPU.
    """
    for key, value, least in (("timeout", timeout, 0), ("memory_mb", memory_mb, 63)):
        if value <= least:
            raise SpecError(f"{key} is {value}, but must be more than {least}")
    if parallel is not None and parallel < 1:
        raise SpecError(f"parallel is {parallel}, but must be at least 1")
    limits = Limits(seconds=timeout, memory=memory_mb * 2**20)

    def code(completions: Any, **columns: Any) -> list[float | None]:
        tests = [steps_of(source) for source in column_of(column, columns)]
        programs = [
            Program(extract(text_of(completion)), steps)
            for completion, steps in zip(completions, tests, strict=True)
            if steps
        ]
        passed = iter(run(programs, limits, parallel))
        return [
            next(passed) / sum(step.counts for step in steps) if steps else None for steps in tests
        ]

    def needs(count: int) -> float:
        return math.ceil(count / (parallel or at_once())) * (timeout + STARTUP_ALLOWANCE)

    code.needs = needs  # type: ignore[attr-defined]
    return code


def extract(text: str) -> str:
    """The code of a completion."""
    blocks = list(FENCE.finditer(text))
    python = [block for block in blocks if block["language"].lower() in PYTHON]
    plain = [block for block in blocks if not block["language"]]
    found = python or plain
    return found[-1]["body"] if found else text


def steps_of(tests: Any) -> tuple[Step, ...]:
    """The steps of a sample's tests; empty if it has no tests.

    Raises:
        DataError: the tests are not valid Python.
    """
    if isinstance(tests, (list, tuple)):
        return tuple(Step(_checked(str(test)), counts=True) for test in tests)
    if tests is None or not str(tests).strip():
        return ()
    source = _checked(str(tests))
    body = ast.parse(source).body
    if not any(isinstance(statement, ast.Assert) for statement in body):
        return (Step(source, counts=True),)
    return tuple(
        Step(ast.unparse(statement), counts=isinstance(statement, ast.Assert)) for statement in body
    )


def _checked(source: str) -> str:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise DataError(
            f"these tests are not valid Python ({error}): {excerpt(source)}", "Fix that row"
        ) from error
    return source
