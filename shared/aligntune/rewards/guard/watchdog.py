"""Ends a process in which a function never returns, not even to the interpreter.

An alarm (:mod:`.timeout`) is raised by the interpreter, so native code that never comes back to it,
or a loop that swallows every exception, goes on for ever; a thread would not help, as the
interpreter's lock may never be free again. So a process that was forked beforehand tells the error,
and a timer of the C library ends this one with the error's exit code, which needs no interpreter.
A signal would not do: process 1 of a container takes none from within.
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
"""How much longer than its time a function has, so that an alarm can do it first."""

TELLING_SECONDS = 3.0
"""For the error to be told before this process ends."""

PR_SET_PDEATHSIG = 1
CLOCK_MONOTONIC = 1
SIGEV_THREAD = 2


class Backstop:
    """See the module.

    Args:
        tell: says the error, in the forked process, which must not touch a GPU.
        grace: seconds beyond a limit until the error is told.
        telling: seconds from then until this process ends.
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
            # Python warns of threads, whose locks a fork may copy shut; the child needs none.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            os.close(self._writer)
            _watch(reader, parent, tell)
        os.close(reader)

    @contextmanager
    def watching(self, seconds: float, error: RewardError) -> Iterator[None]:
        """Should the block not end in ``seconds`` and some grace, tell ``error`` and end."""
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
            raise error  # it has been told, so it has to be true

    def _say(self, words: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # then nobody tells, and the timer still ends it
            os.write(self._writer, json.dumps(words).encode() + b"\n")


def _watch(reader: int, parent: int, tell: Callable[[RewardError], None]) -> NoReturn:
    """The forked process: wait for the end of each block, or tell that there is none."""
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
        """Start it anew; 0 stops it."""
        whole = int(seconds)
        parts = (0, 0, whole, int((seconds - whole) * 1e9))
        self._libc.timer_settime(self._timer, 0, ctypes.byref((ctypes.c_long * 4)(*parts)), None)
