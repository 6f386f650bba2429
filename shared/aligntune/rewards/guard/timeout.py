"""A time limit on a block of Python, by the alarm signal; limits may nest."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType
from typing import Any, Self


class TimeUp(BaseException):
    """The time of a block is up. Not an Exception, so ``except Exception`` does not catch it."""


class Limit:
    """Leave a block when its time is up and set ``over``; ``spent`` is the seconds it took.

    Works only in the main thread, and only for code that returns to the interpreter now and then.
    A block that must end in any case needs :mod:`.watchdog` too.

    Args:
        seconds: wall-clock time for the block; infinity sets no limit.
    """

    def __init__(self, seconds: float) -> None:
        self.over = False
        self.spent = 0.0
        self._seconds = seconds
        self._inside = False
        self._set = False
        self._up = TimeUp()

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._outer_left = signal.getitimer(signal.ITIMER_REAL)[0]
        inner = self._seconds < (self._outer_left or math.inf)
        if inner and threading.current_thread() is threading.main_thread():
            self._set = self._inside = True
            self._outer: Any = signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        self._inside = False
        self.spent = time.monotonic() - self._began
        if self._set:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._outer)
            if self._outer_left:
                left = max(self._outer_left - self.spent, 1e-6)
                signal.setitimer(signal.ITIMER_REAL, left)
        self.over = error is self._up
        return self.over

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._inside:
            raise self._up
