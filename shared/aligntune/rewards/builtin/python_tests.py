"""Finds the tests in Python code, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from aligntune.rewards.builtin.hardened import harden
from aligntune.rewards.sandbox.parent import Step

CANDIDATE_MODULES = ("solution", "candidate")
"""Modules that tests may import the candidate's code from."""

RUNNERS = ("unittest.main", "pytest.main", "doctest.testmod")
PYTEST = ("raises", "approx", "mark.parametrize")
"""What :mod:`aligntune.rewards.sandbox.pytest_functions` has."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SETUP = (*Definition, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.AugAssign)


class NotTestsError(Exception):
    """The reason why something cannot be used as tests."""


def read_text(source: str, entry_point: str | None) -> Iterator[Step]:
    """The steps of one text: each top-level assertion, each test function and each test method.

    Raises:
        NotTestsError: the text tests nothing, or in a way that is not supported.
        SyntaxError: it is not Python.
    """
    body = list(_top_level(ast.parse(source)))
    yield from _steps(body, _asserting(body), entry_point)


def read_list(sources: list[str], entry_point: str | None) -> Iterator[Step]:
    """The steps of a list of texts: each is a test, or definitions that the others use."""
    bodies = [list(_top_level(ast.parse(source))) for source in sources]
    asserting = _asserting([statement for body in bodies for statement in body])
    steps: list[Step] = []
    for body in bodies:
        if any(_asserts(statement, asserting) for statement in body if _runs(statement)):
            _require_imports(body)
            steps.append(Step(harden(body), counts=True))
        elif body and all(isinstance(one, SETUP) for one in body) and not _uncalled(body):
            _require_imports(body)
            steps.append(Step(harden(body), counts=False))
        elif body:
            steps += _steps(body, asserting, entry_point)
    if not any(step.counts for step in steps):
        raise NotTestsError("they test nothing")
    yield from steps


def _top_level(module: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run, including those under ``if __name__ == "__main__"``, but for runners."""
    for statement in module.body:
        inner = [statement]
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            inner = statement.body
        for one in inner:
            if isinstance(one, ast.Expr):
                if isinstance(one.value, ast.Constant):  # a docstring
                    continue
                if isinstance(one.value, ast.Call) and ast.unparse(one.value.func) in RUNNERS:
                    continue
            yield one


def _steps(body: list[ast.stmt], asserting: set[str], entry_point: str | None) -> Iterator[Step]:
    _require_imports(body)
    _require_pytest(body)
    found = False
    for statement in body:
        counts = _runs(statement) and _asserts(statement, asserting)
        found |= counts
        yield Step(harden([statement], body), counts)
    called = {
        node.func.id
        for statement in body
        if _runs(statement)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    for statement in body:
        if not isinstance(statement, Definition) or statement.name in called:
            continue
        for call in _calls(statement, asserting, entry_point):
            found = True
            yield Step(call, counts=True)
    if not found:
        raise NotTestsError("they test nothing")


def _uncalled(body: list[ast.stmt]) -> bool:
    """Whether a body defines what a test runner would call."""
    return any(
        isinstance(one, Definition)
        and (one.name.startswith(("test", "Test")) or one.name == "check" or _is_case(one))
        for one in body
    )


def _calls(definition: ast.stmt, asserting: set[str], entry_point: str | None) -> Iterator[str]:
    """The calls that run a test function, or the test methods of a class."""
    if isinstance(definition, ast.ClassDef):
        yield from _methods(definition, asserting)
        return
    assert isinstance(definition, Function)
    name = definition.name
    if name not in asserting:
        if name.startswith("test") or name == "check":
            raise NotTestsError(f"{name} tests nothing")
        return
    needed = _needed(definition)
    if name == "check" or [one.arg for one in needed] == ["candidate"]:
        if len(needed) != 1:
            raise NotTestsError(f"{name} takes {len(needed)} arguments, and nothing calls it")
        if not entry_point:
            raise NotTestsError(f"nothing calls {name}, and the row has no entry_point")
        yield f"{name}({_expression(entry_point)})"
    elif name.startswith("test"):
        _require_plain(definition, needed)
        yield f"{name}()"


def _methods(definition: ast.ClassDef, asserting: set[str]) -> Iterator[str]:
    case = _is_case(definition)
    if not case and not definition.name.startswith("Test"):
        return
    methods = [one for one in definition.body if isinstance(one, Function)]
    if not case and any(one.name in ("__init__", "setup_method", "setup_class") for one in methods):
        raise NotTestsError(f"{definition.name} has a set-up that only pytest runs")
    for method in methods:
        if not method.name.startswith("test"):
            continue
        if not _asserts(method, asserting):
            raise NotTestsError(f"{definition.name}.{method.name} tests nothing")
        _require_plain(method, _needed(method)[1:])
        called = f"{definition.name}({method.name!r})" if case else f"{definition.name}()"
        yield f"__unittest__({called})" if case else f"{called}.{method.name}()"


def _is_case(definition: ast.stmt) -> bool:
    return isinstance(definition, ast.ClassDef) and any(
        ast.unparse(base).endswith("TestCase") for base in definition.bases
    )


def _needed(function: Function) -> list[ast.arg]:
    """Arguments without a default, but for those of ``parametrize``."""
    arguments = function.args
    by_place = [*arguments.posonlyargs, *arguments.args]
    needed = by_place[: len(by_place) - len(arguments.defaults)]
    given = {
        name.strip()
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("parametrize")
        for constant in ast.walk(decorator.args[0] if decorator.args else decorator)
        if isinstance(constant, ast.Constant)
        for name in str(constant.value).split(",")
    }
    return [one for one in needed if one.arg not in given]


def _require_plain(function: Function, needed: list[ast.arg]) -> None:
    if isinstance(function, ast.AsyncFunctionDef):
        raise NotTestsError(f"{function.name} is asynchronous")
    if needed:
        raise NotTestsError(f"{function.name} takes {needed[0].arg!r}, and fixtures do not exist")


def _expression(entry_point: str) -> str:
    """A function's name, or such as ``Solution().add``."""
    try:
        tree = ast.parse(entry_point.strip(), mode="eval").body
    except SyntaxError:
        raise NotTestsError(f"the entry_point {entry_point!r} is not a function's name") from None
    if not isinstance(tree, (ast.Name, ast.Attribute)):
        raise NotTestsError(f"the entry_point {entry_point!r} is not a function's name")
    return ast.unparse(tree)


def _runs(statement: ast.stmt) -> bool:
    return not isinstance(statement, Definition)


def _asserting(body: Iterable[ast.stmt]) -> set[str]:
    """The functions of the tests that assert something, maybe by calling one another."""
    functions = [one for one in body if isinstance(one, Definition)]
    found: set[str] = set()
    while True:
        more = {one.name for one in functions if _asserts(one, found)} - found
        if not more:
            return found
        found |= more


def _asserts(node: ast.AST, asserting: set[str]) -> bool:
    """Whether code can fail because of what the candidate computes."""
    for one in ast.walk(node):
        if isinstance(one, ast.Assert) and _depends(one.test):
            return True
        if isinstance(one, ast.Raise):
            return True
        if isinstance(one, ast.Call):
            name = ast.unparse(one.func).rpartition(".")[2]
            if name in asserting or name in ("raises", "fail") or name.startswith("assert"):
                return True
    return False


def _depends(condition: ast.expr) -> bool:
    """Whether a condition depends on anything; a tuple is always true."""
    if isinstance(condition, ast.Tuple):
        return False
    names = [one for one in ast.walk(condition) if isinstance(one, ast.Name)]
    return bool(names) and not _always(condition)


def _always(condition: ast.expr) -> bool:
    """Whether a condition is ``... or True``."""
    return (
        isinstance(condition, ast.BoolOp)
        and isinstance(condition.op, ast.Or)
        and any(isinstance(one, ast.Constant) and one.value for one in condition.values)
    )


def _require_imports(body: Iterable[ast.stmt]) -> None:
    for root in imports(body):
        if root not in (*CANDIDATE_MODULES, "pytest") and find_spec(root) is None:
            raise NotTestsError(f"they import {root}, which is not installed here")


def imports(body: Iterable[ast.stmt]) -> set[str]:
    """The top-level modules that code imports."""
    found = set()
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found


def _require_pytest(body: Iterable[ast.stmt]) -> None:
    """Refuse what the sandbox does not have of pytest."""
    for statement in body:
        for node in ast.walk(statement):
            used: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module == "pytest":
                used = [alias.name for alias in node.names if alias.name != "mark"]
            elif isinstance(node, ast.Attribute):
                dotted = ast.unparse(node)
                if dotted.startswith("pytest.") and dotted != "pytest.mark":
                    name = dotted.removeprefix("pytest.")
                    used = [] if name.startswith(("raises.", "approx.")) else [name]
            for name in used:
                if name not in PYTEST:
                    raise NotTestsError(
                        f"they use pytest.{name}; of pytest there is only {', '.join(PYTEST)}"
                    )
