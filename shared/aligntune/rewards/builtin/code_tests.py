"""Reads the tests of one row, in the forms that public datasets have, into steps for the sandbox.

=====================================  ========================================================
Python: ``assert`` statements          MBPP (https://arxiv.org/abs/2108.07732)
Python: ``def check(candidate)``       HumanEval (https://arxiv.org/abs/2107.03374); the column
                                       ``entry_point`` names the function
Python: ``def test_...()`` or classes  pytest and unittest: KodCode, BigCodeBench
inputs and outputs                     APPS (https://arxiv.org/abs/2105.09938), TACO: standard
                                       input and output, or arguments and result of ``fn_name``
=====================================  ========================================================

Anything else is refused, and so are tests that test nothing.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aligntune.errors import DataError
from aligntune.rewards.builtin.python_tests import NotTestsError, read_list, read_text
from aligntune.rewards.inputs import excerpt
from aligntune.rewards.sandbox.parent import Step

INPUTS, OUTPUTS = ("inputs", "input"), ("outputs", "output")
FUNCTION_NAMES = ("fn_name", "func_name", "function_name")
FUNCTIONAL = ("functional", "function_call")
STANDARD = ("stdin", "stdin_stdout", "standard_input")


def read_tests(tests: Any, entry_point: str | None = None, before: str = "") -> tuple[Step, ...]:
    """The steps of a row's tests; empty if it has none (null, or blank).

    Args:
        tests: the value of the column.
        entry_point: the function that ``check(candidate)`` checks.
        before: Python code that runs before the tests.

    Raises:
        DataError: the tests have no known form, or test nothing.
    """
    try:
        steps = _read(tests, entry_point)
        if steps and before.strip():
            ast.parse(before)
            steps = (Step(before, counts=False), *steps)
        return steps
    except (NotTestsError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or "they are nested too deeply"
        if not isinstance(error, NotTestsError):
            reason = f"they are not valid Python ({reason})"
        raise DataError(
            f"the reward code cannot use these tests, because {reason}: {excerpt(str(tests))}",
            "Fix or remove that row; docs/rewards.md lists the forms of tests",
        ) from None


def _read(tests: Any, entry_point: str | None) -> tuple[Step, ...]:
    if isinstance(tests, str):
        if not tests.strip():
            return ()
        if tests.lstrip()[0] in "{[":
            try:
                return _read(json.loads(tests), entry_point)
            except json.JSONDecodeError:
                pass
        return tuple(read_text(tests, entry_point))
    if tests is None:
        return ()
    if isinstance(tests, Mapping) and "test_cases" in tests:
        return _read(tests["test_cases"], entry_point)
    if isinstance(tests, Mapping):
        return tuple(_cases(tests))
    if isinstance(tests, Sequence):
        items = [test for test in tests if test is not None]
        if not items:
            return ()
        if all(isinstance(test, str) for test in items):
            return tuple(read_list(items, entry_point))
        if all(isinstance(test, Mapping) for test in items):
            return tuple(step for test in items for step in _cases(test))
    raise NotTestsError(f"{type(tests).__name__} is not a form of tests")


def _cases(given: Mapping[str, Any]) -> Iterator[Step]:
    """Cases of inputs and outputs: one as ``input`` and ``output``, or lists of them."""
    function = next((given[name] for name in FUNCTION_NAMES if given.get(name)), None)
    kind = given.get("type") or given.get("testtype")
    if kind in FUNCTIONAL and function is None:
        raise NotTestsError("they call a function, and no fn_name says which")
    if kind is not None and kind not in (*FUNCTIONAL, *STANDARD):
        raise NotTestsError(f"their type {kind!r} is not known")
    found = [
        next((given[name] for name in names if given.get(name) is not None), None)
        for names in (INPUTS, OUTPUTS)
    ]
    if None in found:
        raise NotTestsError("they are a mapping without inputs and outputs")
    if any(isinstance(one, str) for one in found):
        found = [[one] for one in found]
    inputs, outputs = found
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise NotTestsError("their inputs and outputs are neither texts nor lists")
    if len(inputs) != len(outputs) or not inputs:
        raise NotTestsError(f"they have {len(inputs)} inputs and {len(outputs)} outputs")
    for one, expected in zip(inputs, outputs, strict=True):
        yield _called(str(function), one, expected) if function else _program(one, expected)


def _program(given: Any, expected: Any) -> Step:
    texts = [
        "\n".join(map(str, one)) + "\n" if isinstance(one, list) else one
        for one in (given, expected)
    ]
    if not all(isinstance(text, str) for text in texts):
        raise NotTestsError("an input or output is not a text, and no fn_name names a function")
    if not texts[1].strip():
        raise NotTestsError("an expected output is blank, which a program without output gives")
    return Step(texts[0], counts=True, kind="program", expected=texts[1])


def _called(function: str, given: Any, expected: Any) -> Step:
    if not function.isidentifier():
        raise NotTestsError(f"fn_name {function!r} is not the name of a function")
    if isinstance(given, str):  # one JSON value a line, as in LiveCodeBench
        given = [json.loads(line) for line in given.splitlines() if line.strip()]
        expected = json.loads(expected) if isinstance(expected, str) else expected
    arguments = given if isinstance(given, list) else [given]
    call = json.dumps({"function": function, "arguments": arguments})
    return Step(call, counts=True, kind="call", expected=expected)
