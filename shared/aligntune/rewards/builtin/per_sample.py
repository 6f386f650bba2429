"""Scores a batch sample by sample, so that no completion can end a run or hold it up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from aligntune.errors import AligntuneError
from aligntune.rewards.guard.timeout import Limit
from aligntune.rewards.inputs import column_of, text_of

SECONDS = 5.0
"""Time for one sample, unless the reward has its own limit."""


class PerSample:
    """A built-in reward as a trainer calls it.

    A completion that takes too long, or that the judge fails on, scores 0 and is counted in
    ``counts``, which the guard logs as ``rewards/NAME/timeouts`` and ``rewards/NAME/errors``.

    Args:
        score: the score of a completion's text, given what ``read`` made of its reference.
        column: the column of references; None for a reward without one.
        read: reads one reference; None means that there is none, and no score. It raises a
            DataError for a reference that it does not understand.
        seconds: time for one sample; None if ``score`` and ``read`` limit themselves.
        ready: called before each sample, outside its time.
    """

    def __init__(
        self,
        score: Callable[..., float | None],
        column: str | None = None,
        read: Callable[[Any], Any] | None = None,
        seconds: float | None = SECONDS,
        ready: Callable[[], object] = bool,
    ) -> None:
        self.column = column
        self.counts: Counter[str] = Counter()
        self._score, self._read, self._ready = score, read, ready
        self._seconds = math.inf if seconds is None else seconds

    def __call__(self, completions: Any, **columns: Any) -> list[float | None]:
        self.counts = Counter(timeouts=0, errors=0)
        if self.column is None:
            return [self._judged(text_of(completion)) for completion in completions]
        references = column_of(self.column, columns)
        return [
            self._referred(text_of(completion), reference)
            for completion, reference in zip(completions, references, strict=True)
        ]

    def needs(self, count: int) -> float:
        """Seconds that a batch may take."""
        return count * self._seconds

    def reads(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the data has a reference.

        Raises:
            DataError: the row's reference is not understood.
        """
        return self.column is None or self._reference(row.get(self.column)) is not None

    def _reference(self, reference: Any) -> Any:
        if self._read is None or reference is None:
            return reference
        self._ready()
        return self._read(reference)

    def _referred(self, text: str, reference: Any) -> float | None:
        wanted = self._reference(reference)
        return None if wanted is None else self._judged(text, wanted)

    def _judged(self, *given: Any) -> float | None:
        self._ready()
        try:
            with Limit(self._seconds):
                return self._score(*given)
        except AligntuneError:
            raise
        except TimeoutError:
            self.counts["timeouts"] += 1
            return 0.0
        except Exception:  # whatever a library does with a strange text costs that text its score
            self.counts["errors"] += 1
            return 0.0
        self.counts["timeouts"] += 1
        return 0.0
