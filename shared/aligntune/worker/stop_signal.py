"""SIGTERM means: finish the step, write a checkpoint, end resumably."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from aligntune.errors import StoppedError


class StopSignal:
    """Remembers that a stop was asked for; before training, when nothing is lost, ends at once.

    Once training has ended, what is left (evaluating, saving) is short and is finished. In a thread
    of another program, which signals do not reach, it is never asked for.
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
