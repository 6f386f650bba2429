"""Name a Python function by file and name, because training runs in another process."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from aligntune.errors import SpecError

REMEDY = "Move it to a separate .py file, and import it from there or pass 'path.py:function'"


def named_function(function: Callable[..., Any]) -> str:
    """``path.py:name`` of a function at the top level of a module in a file.

    Raises:
        SpecError: it is anything else: a lambda, a method, a nested function, or a function of a
            notebook or of the running program, which importing would run again.
    """
    name = getattr(function, "__name__", None) or type(function).__name__
    module = getattr(function, "__module__", None)
    if not inspect.isfunction(function):
        raise SpecError(f"reward {name!r} is not a plain function", REMEDY)
    if function.__qualname__ != name or name == "<lambda>":
        raise SpecError(
            f"reward {function.__qualname__!r} is not at the top level of a module", REMEDY
        )
    if module == "__main__":
        raise SpecError(
            f"reward {name!r} is defined in the running program, which cannot be imported", REMEDY
        )
    file = inspect.getsourcefile(function)
    if file is None or not os.path.isfile(file):
        raise SpecError(f"reward {name!r} is not defined in a file", REMEDY)
    if getattr(sys.modules.get(str(module)), name, None) is not function:
        raise SpecError(
            f"reward {name!r} is not the function that {module} has under that name", REMEDY
        )
    return f"{os.path.abspath(file)}:{name}"
