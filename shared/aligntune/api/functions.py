"""Name a Python function by file and name, because training runs in another process."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from aligntune.errors import SpecError

REMEDY = "Move it to a separate .py file, and import it from there or pass 'path.py:function'"


def named_reward(function: Callable[..., Any]) -> dict[str, Any]:
    """The reward that a function is: ``{"name": "path.py:name"}``.

    It may be anything callable that a module in a file has at its top level: a function, an object
    with ``__call__``, a ``functools.partial``. A partial that no module has becomes its function,
    with its keyword arguments as ``args``.

    Raises:
        SpecError: no file has it: a lambda, a method, a nested function, or a function of a
            notebook or of the running program, which importing would run again.
    """
    fixed: dict[str, Any] = {}
    while isinstance(function, partial) and _found(function) is None:
        if function.args:
            raise SpecError(
                f"reward {function!r} fixes an argument by position",
                "Fix it by name, as partial(function, name=value)",
            )
        fixed, function = {**function.keywords, **fixed}, function.func
    return {"name": named_function(function), **({"args": fixed} if fixed else {})}


def named_function(function: Callable[..., Any]) -> str:
    """``path.py:name`` of something callable at the top level of a module in a file.

    Raises:
        SpecError: it is anything else, see :func:`named_reward`.
    """
    found = _found(function)
    if found is not None:
        return "{}:{}".format(*found)
    name = getattr(function, "__qualname__", None) or type(function).__name__
    module = getattr(function, "__module__", None) or type(function).__module__
    if inspect.ismethod(function):
        raise SpecError(f"reward {name!r} is a method, which is not a plain function", REMEDY)
    if inspect.isclass(function):
        raise SpecError(f"reward {name!r} is a class", "Pass an object of it that a module has")
    if not inspect.isfunction(function):
        if inspect.isbuiltin(function):
            raise SpecError(f"reward {name!r} is not a plain function", REMEDY)
        raise SpecError(
            f"reward {name!r} is an object that no module has at its top level",
            "Assign it to a name in a .py file, and import it from there",
        )
    if name != function.__name__ or name == "<lambda>":
        kind = "a lambda" if "<lambda>" in name else "a closure" if function.__closure__ else ""
        is_kind = f" is {kind}, and" if kind else ""
        raise SpecError(f"reward {name!r}{is_kind} is not at the top level of a module", REMEDY)
    if module == "__main__":
        raise SpecError(
            f"reward {name!r} is defined in the running program, which cannot be imported", REMEDY
        )
    file = inspect.getsourcefile(function)
    if file is None or not os.path.isfile(file):
        raise SpecError(f"reward {name!r} is not defined in a file", REMEDY)
    raise SpecError(
        f"reward {name!r} is not the function that {module} has under that name", REMEDY
    )


def _found(function: Callable[..., Any]) -> tuple[str, str] | None:
    """The file and the name of something callable in a loaded module."""
    if inspect.isclass(function) or inspect.isbuiltin(function):
        return None
    for module in _modules(function):
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py") or not os.path.isfile(file):
            continue
        for name, value in list(vars(module).items()):
            if value is function and name.isidentifier():
                return os.path.abspath(file), name
    return None


def _modules(function: Callable[..., Any]) -> Iterator[ModuleType]:
    """The loaded modules that may have it: its own first, never the running program."""
    own = [getattr(function, "__module__", None)]
    if not inspect.isfunction(function):  # an object may be in any module
        own += [type(function).__module__, *sys.modules]
    for name in dict.fromkeys(own):
        module = sys.modules.get(str(name))
        if isinstance(module, ModuleType) and name != "__main__":
            yield module
