"""Ctrl-C and SIGTERM: the first makes the worker checkpoint and end, the second ends it now."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self

from aligntune_run.engines.base import Worker


class Interrupt:
    """Passes the launcher's stop signals on to the worker while its ``with`` block lasts.

    A signal that comes while there is no worker, before the first or between two, waits: the next
    worker is asked to stop as soon as it has started. Only a program's main thread gets signals; in
    any other thread there is nothing to pass on.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._answered = 0
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        self._before = {number: signal.signal(number, self._forward) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def attach(self, worker: Worker | None) -> None:
        """Pass signals on to this worker from now on, or to none."""
        self._worker = worker
        if worker is not None and self.asked:
            worker.stop()

    def answer(self, saves: bool) -> str:
        """What happens because of a new signal, for the user; empty if there is none.

        Args:
            saves: whether the worker writes a checkpoint before it ends.
        """
        if self.asked == self._answered:
            return ""
        self._answered = self.asked
        if self.asked > 1:
            return "ending at once"
        how = "after this step, with a checkpoint if training has begun" if saves else "this task"
        return f"stopping {how}. Ctrl-C again ends it at once"

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1
        if self._worker is None:
            return
        if self.asked == 1:
            self._worker.stop()
        else:
            self._worker.kill()
