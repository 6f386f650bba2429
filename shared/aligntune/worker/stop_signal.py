"""SIGTERM means: finish the step, write a checkpoint, and exit so that the run can be resumed."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from aligntune.errors import StoppedError


class StopSignal:
    """Records that a stop was requested. Before training starts, it ends the process at once.

    After training, the rest (saving, evaluating) is short and is finished. Signals do not reach a
    thread of another program, so there no stop can be requested.
    """

    def __init__(self, before: str = "training began") -> None:
        self._before = before
        self.asked = False
        self.begun = False
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT) if main else ():
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.begun:
            raise StoppedError(f"stopped before {self._before}", "Start it again")
