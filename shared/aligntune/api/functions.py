"""A Python function by file and name, as training happens in another process than the caller's."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from aligntune.errors import SpecError

REMEDY = "Write it in a .py file of its own, and import it from there or name it 'path.py:function'"


def named_function(function: Callable[..., Any]) -> str:
    """``path.py:name`` of a function at the top of a module that is a file.

    Raises:
        SpecError: it is anything else: a lambda, a method, made by another function, of a notebook
            or of the program that runs, which would run again where it is imported.
    """
    name = getattr(function, "__name__", None) or type(function).__name__
    module = getattr(function, "__module__", None)
    if not inspect.isfunction(function):
        raise SpecError(f"reward {name!r} is no plain function", REMEDY)
    if function.__qualname__ != name or name == "<lambda>":
        raise SpecError(f"reward {function.__qualname__!r} is not at the top of a module", REMEDY)
    if module == "__main__":
        raise SpecError(
            f"reward {name!r} is of the program that runs now, which cannot be imported", REMEDY
        )
    file = inspect.getsourcefile(function)
    if file is None or not os.path.isfile(file):
        raise SpecError(f"reward {name!r} is in no file", REMEDY)
    if getattr(sys.modules.get(str(module)), name, None) is not function:
        raise SpecError(f"reward {name!r} is not what {module} has under that name", REMEDY)
    return f"{os.path.abspath(file)}:{name}"
