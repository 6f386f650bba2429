"""Checks and their scopes: order, verdicts, errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aligntune.errors import DataError, HardwareError, OutputError
from aligntune_run.check import Result, Scope, Verdict, failed, fails, passes, warns


def test_a_check_is_one_function_and_runs_in_the_order_of_definition() -> None:
    scope = Scope[int]()

    @scope.check("size", HardwareError, "Use less")
    def _size(count: int) -> Result:
        return passes("small") if count < 3 else fails(f"{count} is too much")

    @scope.check("even", DataError, "Add one", about="request")
    def _even(count: int) -> Result | None:
        return warns(f"{count} is odd") if count % 2 else None

    assert scope.judge(1) == (
        Verdict("size", "", "pass", "small"),
        Verdict("even", "", "warn", "1 is odd", "Add one"),
    )
    assert scope.judge(4, "trl") == (
        Verdict("size", "trl", "fail", "4 is too much", "Use less", "HardwareError"),
    )
    assert [verdict.rule for verdict in scope.judge(3, about="request")] == ["even"]


def test_an_error_that_a_check_raises_is_its_failure() -> None:
    scope = Scope[str]()

    @scope.check("file", OutputError)
    def _file(path: str) -> Iterator[Result]:
        yield passes("the folder is there")
        raise DataError(f"{path} is empty", "Add rows")

    good, bad = scope.judge("a.jsonl")
    assert good.error is None
    assert (bad.level, bad.kind) == ("fail", "DataError")
    assert isinstance(bad.error, DataError)
    assert str(bad.error) == "a.jsonl is empty. Add rows"


def test_a_result_can_override_class_and_remedy() -> None:
    scope = Scope[None]()
    scope.check("any", OutputError, "Try again")(lambda _: failed(DataError("no rows", "Add some")))
    (verdict,) = scope.judge(None)
    assert (verdict.kind, verdict.remedy) == ("DataError", "Add some")


def test_two_checks_of_one_scope_have_different_names() -> None:
    scope = Scope[None]()
    scope.check("any", OutputError)(lambda _: None)
    with pytest.raises(AssertionError):
        scope.check("any", OutputError)(lambda _: None)
