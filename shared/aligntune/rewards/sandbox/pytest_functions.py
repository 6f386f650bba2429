"""What tests of functions use of pytest, with its meaning, where pytest is not installed.

See https://docs.pytest.org/en/stable/reference/reference.html. Fixtures and plugins do not exist;
tests that need them are refused before training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any


class raises:  # noqa: N801
    """A block that must raise one of some exceptions, with a message that contains a pattern."""

    def __init__(self, expected: Any, *call: Any, match: str | None = None, **named: Any) -> None:
        self.type: Any = None
        self.value: Any = None
        self._expected, self._match = expected, match
        if call:
            with self:
                call[0](*call[1:], **named)

    def __enter__(self) -> raises:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        if kind is None:
            raise AssertionError(f"did not raise {self._expected}")
        if not issubclass(kind, self._expected):
            return False
        self.type, self.value = kind, error
        if self._match is not None and not re.search(self._match, str(error)):
            raise AssertionError(f"{error} does not match {self._match!r}")
        return True


class approx:  # noqa: N801
    """A number, or a list or mapping of numbers, within 1e-6 of its size or 1e-12."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None) -> None:  # noqa: A002
        self._expected = expected
        # With an absolute tolerance alone, the relative one is 0.
        self._relative = rel if rel is not None else 0.0 if abs is not None else 1e-6
        self._absolute = 1e-12 if abs is None else abs

    def __eq__(self, other: object) -> bool:
        return self._close(self._expected, other)

    __hash__ = None  # type: ignore[assignment]

    def _close(self, expected: Any, actual: Any) -> bool:
        if isinstance(expected, Mapping):
            return (
                isinstance(actual, Mapping)
                and expected.keys() == actual.keys()
                and all(self._close(value, actual[key]) for key, value in expected.items())
            )
        if isinstance(expected, Iterable) and not isinstance(expected, str):
            try:
                pairs = list(zip(expected, actual, strict=True))
            except (TypeError, ValueError):
                return False
            return all(self._close(*pair) for pair in pairs)
        try:
            close = math.isclose(
                expected,
                actual,
                rel_tol=0,
                abs_tol=max(self._relative * abs(expected), self._absolute),
            )
        except TypeError:
            return bool(expected == actual)
        return close


class mark:  # noqa: N801
    """Only ``parametrize``."""

    @staticmethod
    def parametrize(
        names: str | Iterable[str], cases: Iterable[Any], **_: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Run a function once for each case; the function then needs no arguments."""
        listed = isinstance(names, str) and "," not in names
        words = [word.strip() for word in names.split(",")] if isinstance(names, str) else [*names]

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            def run_all(*given: Any, **named: Any) -> None:
                values = list(cases)
                assert values, "there are no cases"
                for case in values:
                    parts = [case] if listed else case
                    function(*given, **named, **dict(zip(words, parts, strict=True)))

            return run_all

        return decorate
