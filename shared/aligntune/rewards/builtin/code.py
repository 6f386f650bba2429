"""The code reward: the fraction of tests that a candidate passes, each in a child process."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aligntune.errors import SpecError
from aligntune.rewards.builtin.code_tests import read_tests
from aligntune.rewards.builtin.fences import fenced_blocks
from aligntune.rewards.inputs import column_of, text_of
from aligntune.rewards.sandbox.parent import Limits, Program, Step, at_once, run

PYTHON = ("python", "python3", "py")
STARTUP_ALLOWANCE = 1.0
"""Seconds to start a candidate's process, on a busy machine."""

ENTRY_POINT = "entry_point"
BEFORE = ("test_setup_code", "test_imports", "test_import")
"""Columns of MBPP, EvalPlus and their like with code that runs before the tests."""


class Code:
    """The reward, as a trainer calls it; see :func:`code`."""

    def __init__(self, column: str, limits: Limits, parallel: int | None) -> None:
        self.column = column
        self.counts: Counter[str] = Counter()
        self._limits, self._parallel = limits, parallel

    def __call__(self, completions: Any, **columns: Any) -> list[float | None]:
        self.counts = Counter(timeouts=0, errors=0)
        column_of(self.column, columns)
        prompts = columns.get("prompts") or [None] * len(completions)
        programs: list[Program | None] = []
        for index, completion in enumerate(completions):
            row = {
                name: columns[name][index]
                for name in (self.column, ENTRY_POINT, *BEFORE)
                if isinstance(columns.get(name), (list, tuple))
            }
            steps = self._steps(row)
            source = candidate(text_of(completion), prompts[index], row.get(ENTRY_POINT))
            programs.append(Program(source, steps) if steps else None)
        wanted = [program for program in programs if program and program.source.strip()]
        verdicts = iter(run(wanted, self._limits, self._parallel))
        return [self._score(program, verdicts) for program in programs]

    def _score(self, program: Program | None, verdicts: Any) -> float | None:
        if program is None:
            return None
        if not program.source.strip():  # no code passes no test
            return 0.0
        verdict = next(verdicts)
        self.counts["timeouts"] += verdict.timed_out
        return float(verdict.passed / sum(step.counts for step in program.steps))

    def reads(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the data has tests.

        Raises:
            DataError: its tests are not understood.
        """
        return bool(self._steps(row))

    def needs(self, count: int) -> float:
        """Seconds that a batch may take."""
        rounds = math.ceil(count / (self._parallel or at_once()))
        return rounds * (self._limits.seconds + STARTUP_ALLOWANCE)

    def _steps(self, row: Mapping[str, Any]) -> tuple[Step, ...]:
        entry_point = row.get(ENTRY_POINT)
        before = [row[name] for name in BEFORE if row.get(name)]
        lines = [line for one in before for line in ([one] if isinstance(one, str) else one)]
        return read_tests(
            row.get(self.column),
            entry_point if isinstance(entry_point, str) else None,
            "\n".join(map(str, lines)),
        )


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
        column: the column of tests, in a form of :mod:`aligntune.rewards.builtin.code_tests`.
        timeout: seconds for all tests of a candidate.
        memory_mb: memory limit of a candidate in MiB.
        parallel: candidates that run at the same time; null is one per available CPU.
    """
    for key, value, least in (("timeout", timeout, 0), ("memory_mb", memory_mb, 63)):
        if value <= least:
            raise SpecError(f"{key} is {value}, but must be more than {least}")
    if parallel is not None and parallel < 1:
        raise SpecError(f"parallel is {parallel}, but must be at least 1")
    return Code(column, Limits(seconds=timeout, memory=memory_mb * 2**20), parallel)


def candidate(text: str, prompt: Any, entry_point: Any) -> str:
    """The program of a completion, which may continue the code of its prompt, as in HumanEval."""
    source = extract(text)
    if isinstance(prompt, str) and isinstance(entry_point, str) and source is text:
        defined = f"def {entry_point}("
        if defined in prompt and defined not in text and _is_python(prompt + text):
            return prompt + text
    return source


def extract(text: str) -> str:
    """The code of a completion."""
    blocks = fenced_blocks(text)
    python = [block for block in blocks if block.language in PYTHON]
    plain = [block for block in blocks if not block.language]
    found = python or plain
    return found[-1].body if found else text


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
