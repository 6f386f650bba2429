"""Ends a process in which a function never returns to the interpreter.

The interpreter raises the alarm of :mod:`.timeout`, so the alarm cannot stop native code that never
returns to it, or a loop that catches every exception. A thread does not help, because the
interpreter's lock may never be free again. So a process that was forked earlier reports the error,
and a timer of the C library ends this process with the error's exit code, without the interpreter.
A signal does not work: process 1 of a container ignores signals from inside.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from aligntune.errors import RewardError

GRACE_SECONDS = 5.0
"""Extra time for a function, so that the alarm comes first."""

TELLING_SECONDS = 3.0
"""Time to report the error before this process ends."""

PR_SET_PDEATHSIG = 1
CLOCK_MONOTONIC = 1
SIGEV_THREAD = 2


class Backstop:
    """Ends this process if a block never returns; see the module.

    Args:
        tell: reports the error, in the forked process, which must not use a GPU.
        grace: seconds between a limit and the report.
        telling: seconds between the report and the end of this process.
    """

    def __init__(
        self,
        tell: Callable[[RewardError], None],
        grace: float = GRACE_SECONDS,
        telling: float = TELLING_SECONDS,
    ) -> None:
        self._grace, self._telling = grace, telling
        self._end = _EndTimer(RewardError.exit_code)
        reader, self._writer = os.pipe()
        parent = os.getpid()
        with warnings.catch_warnings():
            # Python warns that a fork may copy locked locks of threads; the child uses none.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            os.close(self._writer)
            _watch(reader, parent, tell)
        os.close(reader)

    @contextmanager
    def watching(self, seconds: float, error: RewardError) -> Iterator[None]:
        """Report ``error`` and exit if the block does not end in ``seconds`` and some grace."""
        limit = seconds + self._grace
        began = time.monotonic()
        self._say({"seconds": limit, "what": error.what, "remedy": error.remedy})
        self._end.set(limit + self._telling)
        try:
            yield
        finally:
            self._end.set(0)
            self._say({})
        if time.monotonic() - began > limit:
            raise error  # it has been reported, so it must be raised

    def _say(self, words: dict[str, Any]) -> None:
        with suppress(
            BrokenPipeError
        ):  # then nobody reports, and the timer still ends this process
            os.write(self._writer, json.dumps(words).encode() + b"\n")


def _watch(reader: int, parent: int, tell: Callable[[RewardError], None]) -> NoReturn:
    """The forked process: wait for the end of each block, or report that it does not end."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)  # it ends with its parent
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        words: dict[str, Any] = {}
        pending, deadline = b"", 0.0
        while os.getppid() == parent:
            left = max(deadline - time.monotonic(), 0) if words else None
            if select.select([reader], [], [], left)[0]:
                chunk = os.read(reader, 2**16)
                if not chunk:
                    break
                *lines, pending = (pending + chunk).split(b"\n")
                if lines:
                    words = json.loads(lines[-1])
                    deadline = time.monotonic() + words.get("seconds", 0)
            elif words:
                tell(RewardError(words["what"], words["remedy"]))
                break
    finally:
        os._exit(0)


class _Event(ctypes.Structure):
    """``struct sigevent`` of Linux, for a function that is called in a thread (sigevent(3type))."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("rest", ctypes.c_char * 32),
    )


class _EndTimer:
    """Calls ``_exit(code)`` when its time is up, without the interpreter (timer_create(2))."""

    def __init__(self, code: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        function = ctypes.cast(self._libc._exit, ctypes.c_void_p)
        event = _Event(value=code, notify=SIGEV_THREAD, function=function)
        self._timer = ctypes.c_void_p()
        if self._libc.timer_create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)):
            number = ctypes.get_errno()
            raise OSError(number, f"timer_create: {os.strerror(number)}")

    def set(self, seconds: float) -> None:
        """Restart the timer; 0 stops it."""
        whole = int(seconds)
        parts = (0, 0, whole, int((seconds - whole) * 1e9))
        self._libc.timer_settime(self._timer, 0, ctypes.byref((ctypes.c_long * 4)(*parts)), None)
