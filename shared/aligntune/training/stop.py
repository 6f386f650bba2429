"""SIGTERM means: finish the step, write a checkpoint, end resumably."""

from __future__ import annotations

import signal
from types import FrameType

from aligntune.errors import StoppedError


class StopSignal:
    """Remembers that a stop was asked for; before training, when nothing is lost, ends at once.

    Once training has ended, what is left (evaluating, saving) is short and is finished.
    """

    def __init__(self) -> None:
        self.asked = False
        self.begun = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.begun:
            raise StoppedError("stopped before training began", "Start it again")
