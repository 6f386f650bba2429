"""Custom rewards: functions in a Python file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from aligntune.errors import AligntuneError, RewardError, SpecError
from aligntune.failures import first_line, named
from aligntune.rewards.catalog import FUNCTION, RewardSpec
from aligntune.rewards.guard.timeout import Limit, TimeUp
from aligntune.rewards.guard.watchdog import Backstop
from aligntune.rewards.inputs import column_of
from aligntune.spec.suggest import nearest

TRAINERS_OWN = frozenset({"trainer_state", "log_metric", "log_extra"})
"""Arguments that a trainer passes, and an evaluation does not have."""


def load_function(
    reward: RewardSpec, locate: Callable[[str], Path], backstop: Backstop | None = None
) -> Callable[..., Any]:
    """Load the function that ``reward`` names. Calls pass only the arguments in its signature.

    Raises:
        SpecError: no such file or function, or the function cannot be called.
        RewardError: the file does not import.
    """
    parts = FUNCTION.fullmatch(reward.name or "")
    assert parts is not None
    name, function_name = parts["path"], parts["function"]
    path = locate(name)
    if not path.is_file():
        raise SpecError(
            f"no such reward file: {name}", "Write the reward as /path/to/file.py:function"
        )
    module = _import(path, name, reward.timeout, backstop)
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        has = f"; it has {', '.join(own)}" if own else ""
        raise SpecError(
            f"{name} has no function {function_name!r}{nearest(function_name, own)}{has}"
        )
    return _fitted(function, f"{function_name} of {name}", reward.args)


def _import(path: Path, name: str, timeout: float, backstop: Backstop | None) -> ModuleType:
    known = f"aligntune_reward_{sha256(str(path).encode()).hexdigest()[:12]}"
    if known in sys.modules:  # functions of the same file share its state
        return sys.modules[known]
    found = importlib.util.spec_from_file_location(known, path)
    if found is None or found.loader is None:
        raise SpecError(f"the reward file {name} is not a Python file", "Use a *.py file")
    module = importlib.util.module_from_spec(found)
    sys.modules[known] = module
    if str(path.parent) not in sys.path:  # last, so that its neighbours replace no other module
        sys.path.append(str(path.parent))
    endless = RewardError(
        f"the reward file {name} did not import within {timeout:g} s", "Raise the reward's timeout"
    )
    try:
        with ExitStack() as stack:
            if backstop is not None:
                stack.enter_context(backstop.watching(timeout, endless))
            with Limit(timeout) as limit:
                found.loader.exec_module(module)
    except (AligntuneError, TimeUp):
        del sys.modules[known]
        raise
    except BaseException as error:  # also KeyboardInterrupt: a real one is a request to stop
        del sys.modules[known]
        traceback.print_exc()
        raise RewardError(
            f"the reward file {name} does not import: {_location(error, path)}", "Fix the file"
        ) from error
    if limit.over:
        raise endless
    return module


def _location(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{named(error)}"


def _fitted(
    function: Callable[..., Any], what: str, arguments: Mapping[str, Any]
) -> Callable[..., Any]:
    """``function`` with its fixed arguments. Calls pass only the arguments in its signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"{what} has no readable signature: {first_line(error)}", "Use a plain Python function"
        ) from error
    only_by_place = [
        one.name
        for one in parameters
        if one.kind is one.POSITIONAL_ONLY and one.default is one.empty
    ]
    if only_by_place:
        raise SpecError(
            f"{what} takes {only_by_place[0]!r} by position only, but arguments are passed by name",
            "Remove the / from its signature",
        )
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = {
        one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    needed = {one.name for one in parameters if one.name in named and one.default is one.empty}
    for key in arguments:
        if key not in named and not takes_all:
            raise SpecError(f"{what} has no argument {key!r}{nearest(key, sorted(named))}")

    seen: dict[str, Any] = {}

    def call(**given: Any) -> Any:
        if "trainer_state" in given:
            seen["trainer_state"] = given["trainer_state"]
        passed = {key: value for key, value in given.items() if takes_all or key in named}
        lacking = needed - passed.keys() - arguments.keys()
        passed |= {name: _outside_training(name, seen) for name in lacking & TRAINERS_OWN}
        lacking -= TRAINERS_OWN
        if lacking:
            column_of(min(lacking), given)
        return function(**{**passed, **arguments})

    return call


def _outside_training(name: str, seen: Mapping[str, Any]) -> Any:
    """What an evaluation passes for an argument that only trainers have: the last state seen, and
    functions that log nothing.
    """
    if name != "trainer_state":
        return lambda *_, **__: None
    if name not in seen:
        from transformers import TrainerState

        return TrainerState()
    return seen[name]
