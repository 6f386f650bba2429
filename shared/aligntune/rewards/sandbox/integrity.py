"""Keeps what judges a candidate as it was before the candidate ran.

Runs in the child process. Nothing here is proof against code that reads the process's memory.
"""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "Is": operator.is_,
    "IsNot": operator.is_not,
    "In": lambda item, items: item in items,
    "NotIn": lambda item, items: item not in items,
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Pow": operator.pow,
    "LShift": operator.lshift,
    "RShift": operator.rshift,
    "MatMult": operator.matmul,
    "BitOr": operator.or_,
    "BitXor": operator.xor,
    "BitAnd": operator.and_,
}
"""By the names of :mod:`ast`."""

COMPARING = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__")
ARITHMETIC = ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__truediv__", "__mod__")

REFUSED_EVENTS = frozenset(
    {"gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys.settrace", "sys.setprofile"}
    | {"sys._current_frames", "sys._current_exceptions", "sys.addaudithook"}
    | {"sys.monitoring.register_callback"}
)
"""Audit events of looking into the interpreter: https://docs.python.org/3/library/audit_events.html"""

MRO = type.__dict__["__mro__"].__get__  # what no metaclass can replace
CONTENT = type.__dict__["__dict__"].__get__
FLAGS = type.__dict__["__flags__"].__get__
HEAP = 1 << 9
"""The flag of a class that is written in Python: Py_TPFLAGS_HEAPTYPE."""

FRAMES = ("tb_frame", "gi_frame", "cr_frame", "ag_frame")
HAND_OUT_FRAMES = ("/inspect.py", "/traceback.py", "/pdb.py", "/bdb.py")
"""Files of the standard library that hand out frames."""


class TamperedError(Exception):
    """A test met a value that only pretends."""


class Judge:
    """What tests are judged with, from the moment of its creation.

    Args:
        modules: names of modules that the tests may use.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        self._kept = list(_contents(modules))
        self._modules = {name: one for name, one in sys.modules.items() if name != "__main__"}
        self._finders = list(sys.meta_path)
        self._trusted = frozenset(
            id(value)
            for _, content in self._kept
            for value in content.values()
            if isinstance(value, type)
        )
        self._builtins = dict(vars(builtins))
        unittest = sys.modules.get("unittest")
        if unittest is not None:
            self._run_case, self._result = unittest.TestCase.run, unittest.TestResult
        names = {
            "compare": self.compare,
            "compute": self.compute,
            "together": self.together,
            **{name: value for name, value in vars(builtins).items() if callable(value)},
        }
        self._names = {f"__aligntune_{name}__": value for name, value in names.items()}

    def restore(self, module: ModuleType) -> None:
        """Undo what the candidate did to modules and their classes, and provide the functions that
        tests use.
        """
        for owner, content in self._kept:
            now = vars(owner)
            changed = {name: value for name, value in content.items() if now.get(name) is not value}
            for name, value in changed.items():
                if isinstance(owner, type):
                    type.__setattr__(owner, name, value)
                else:
                    now[name] = value
        sys.modules.update(self._modules)
        sys.meta_path[:] = self._finders
        vars(module).update(self._names, __builtins__=dict(self._builtins))
        vars(module)["__unittest__"] = self.unittest

    def compare(self, words: str, *values: Any) -> Any:
        """A comparison of a test, which may be a chain."""
        result: Any = True
        for word, one, other in zip(words.split(), values, values[1:], strict=False):
            if word in ("Eq", "NotEq") and (one is None or other is None):
                result = (one is other) == (word == "Eq")
            else:
                self.together(one, other)
                result = OPERATORS[word](one, other)
            if len(values) > 2 and not result:
                return result
        return result

    def compute(self, word: str, one: Any, other: Any) -> Any:
        """Arithmetic of a test. A value that turns into plain data only pretends to be a number."""
        result = OPERATORS[word](one, other)
        own = [self._is_own(value, ARITHMETIC) for value in (one, other)]
        if any(own) and not all(own) and not self._is_own(result, ARITHMETIC):
            raise TamperedError
        return result

    def together(self, *values: Any) -> tuple[Any, ...]:
        """Values that a test compares: all of the candidate's classes, or none."""
        own = [self._holds_own(value) for value in values[:2]]
        if any(own) and not all(own):
            raise TamperedError
        return values

    def unittest(self, case: Any) -> None:
        """Run one test method; raises if it does not pass."""
        result = self._result()
        self._run_case(case, result)
        good = result.testsRun == 1 and result.wasSuccessful()
        if not good or result.skipped or result.expectedFailures:
            raise AssertionError

    def _holds_own(self, value: Any) -> bool:
        """Whether a value, or one inside a list, tuple, mapping or set, decides what it equals."""
        waiting, seen = [value], set[int]()
        while waiting:
            one = waiting.pop()
            if self._is_own(one, COMPARING):
                return True
            parts: list[Any] = []
            if isinstance(one, (list, tuple)):
                parts = list(list.__iter__(one) if isinstance(one, list) else tuple.__iter__(one))
            elif isinstance(one, (set, frozenset)):
                parts = list(set.__iter__(one) if isinstance(one, set) else frozenset.__iter__(one))
            elif isinstance(one, dict):
                parts = [*dict.keys(one), *dict.values(one)]
            if parts and id(one) not in seen:
                seen.add(id(one))
                waiting += parts
        return False

    def _is_own(self, value: Any, names: tuple[str, ...]) -> bool:
        kind = type(value)
        if not FLAGS(kind) & HEAP:  # written in C
            return False
        return any(id(owner) not in self._trusted for owner in _provider(kind, names))


def _provider(kind: type, names: tuple[str, ...]) -> list[type]:
    """The classes written in Python that define methods of a kind."""
    return [
        owner
        for owner in MRO(kind)
        if FLAGS(owner) & HEAP and any(name in CONTENT(owner) for name in names)
    ]


def _contents(modules: Iterable[str]) -> Iterable[tuple[Any, dict[str, Any]]]:
    """Modules and their classes, with what they contain now."""
    for name in modules:
        try:
            __import__(name)
        except ImportError:
            continue
    for name, module in list(sys.modules.items()):
        if name in ("sys", "__main__", "candidate") or not isinstance(module, ModuleType):
            continue
        yield module, dict(vars(module))
        for value in list(vars(module).values()):
            if isinstance(value, type) and FLAGS(value) & HEAP and value.__module__ == name:
                content = dict(vars(value))
                yield value, {key: one for key, one in content.items() if key != "__dict__"}
    yield sys, {"modules": sys.modules, "meta_path": sys.meta_path, "path": sys.path}


def watch() -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that keeps a candidate from looking at the frames and objects of its judge.

    Installed libraries may look at frames and change code, because ordinary ones do.
    """
    frame_of, looking = sys._getframe, [False]
    installed = ("<frozen ", f"{sys.prefix}/", f"{sys.base_prefix}/")

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event in REFUSED_EVENTS:
            raise RuntimeError(event)
        if event == "open" and str(given[0]).startswith("/proc/") and "/mem" in str(given[0]):
            raise PermissionError(event)
        looks = event == "sys._getframe" or (event == "object.__getattr__" and given[1] in FRAMES)
        changes = event == "object.__setattr__" and given[1] == "__code__"
        if not (looks or changes) or looking[0]:
            return
        looking[0] = True
        try:
            frame: Any = frame_of(1)
            while event == "sys._getframe" and frame.f_code.co_filename.endswith(HAND_OUT_FRAMES):
                frame = frame.f_back  # whoever asked them
        finally:
            looking[0] = False
        if not frame.f_code.co_filename.startswith(installed):
            raise RuntimeError(event)

    return hook
