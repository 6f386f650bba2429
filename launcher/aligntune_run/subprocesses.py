"""The one door for running other programs: nothing else calls :mod:`subprocess`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Say = Callable[[str], None]
"""Takes one line of what a program prints, as it prints it."""

TAIL = 200
"""How many of the last lines are kept to explain a failure."""


@dataclass(frozen=True)
class Finished:
    """How a program ended; ``code`` is 127 where it could not be started at all."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0


def capture(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout: float = 60
) -> Finished:
    """Run a short program to its end; a missing or hanging one is a failure, not an exception."""
    words = tuple(map(str, argv))
    try:
        done = subprocess.run(
            words, env=env, timeout=timeout, capture_output=True, text=True, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finished(words, 127, "", str(error))
    return Finished(words, done.returncode, done.stdout, done.stderr)


def ask(argv: Sequence[str | Path], *, timeout: float, limit: int = 1 << 20) -> Finished:
    """Run a short program that may misbehave, and everything that it starts, to its end.

    Args:
        argv: the program and its arguments.
        timeout: seconds after which it is killed.
        limit: bytes of output, both kinds together, after which it is killed.

    Returns:
        How it ended. ``out`` has both kinds of output; ``err`` says why there is none, where it
        was killed or could not be started.
    """
    words = tuple(map(str, argv))
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return Finished(words, 127, "", str(error))
    killed: list[str] = []

    def kill(why: str) -> None:
        killed.append(why)
        # Its own session, so that a child that holds the pipe open goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    alarm = threading.Timer(timeout, kill, [f"no end after {timeout:g} s"])
    alarm.daemon = True
    alarm.start()
    with process:
        assert process.stdout
        try:
            out = process.stdout.read(limit + 1)
        except BaseException:
            alarm.cancel()
            kill("interrupted")
            raise
        if len(out) > limit:
            kill(f"more than {limit} bytes of output")
    alarm.cancel()
    if killed:
        return Finished(words, 127, "", killed[0])
    return Finished(words, process.returncode, out.decode(errors="replace"))


def passthrough(
    argv: Sequence[str], *, env: Mapping[str, str], descriptors: Sequence[int] = ()
) -> int:
    """Run a program with our own input and output, and these open files; its exit code."""
    try:
        return subprocess.run(argv, env=env, pass_fds=tuple(descriptors)).returncode
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        return 127


def stream(
    argv: Sequence[str | Path], say: Say, *, env: Mapping[str, str] | None = None
) -> Finished:
    """Run a long program, handing each line to ``say``; ``out`` holds the last :data:`TAIL` lines.

    The program ends with us: where ``say`` raises or the user interrupts, it is terminated.
    """
    words = tuple(map(str, argv))
    tail: deque[str] = deque(maxlen=TAIL)
    try:
        process = subprocess.Popen(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return Finished(words, 127, str(error))
    with process:
        try:
            for line in process.stdout or ():
                tail.append(line.rstrip())
                say(tail[-1])
        except BaseException:
            process.terminate()
            raise
    return Finished(words, process.returncode, "\n".join(tail))
