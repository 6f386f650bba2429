"""math-verify in a process of its own, which can be killed: started once, and again after a kill.

Run as a script, this module is that process: one question per line of standard input as JSON, one
answer per line of standard output.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from aligntune.errors import RewardError
from aligntune.rewards.builtin.numbers import read_answer

STARTUP_SECONDS = 120.0
"""Time to import sympy and its grammar, on a busy machine."""

MARKED = re.compile(r"\$|\\boxed|\\\(|\\\[")
"""What math-verify looks for mathematics in."""

WORDS = re.compile(r"[A-Za-z]{2,}(?:[ '-][A-Za-z]+)*")
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
MIXED = re.compile(r"(?<![\d.,/^_])(\d+) +(\d+) ?/ ?(\d+)(?![\d.])")
SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d+)\b")
PERCENT = "\\%"

MEMORY = 4 * 2**30
"""Bytes of address space."""


class Mathematician:
    """The process, as an object. Calls raise TimeoutError if it needs too long, and kill it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[str, bool] = {}
        atexit.register(self.stop)

    def understands(self, reference: str, seconds: float) -> bool:
        """Whether a reference is mathematics; remembered, because references repeat."""
        if reference not in self._known:
            self._known[reference] = self._ask({"reference": reference}, seconds)
        return self._known[reference]

    def equal(self, accepted: Iterable[str], completion: str, seconds: float) -> bool:
        """Whether a completion's answer equals one of the accepted references."""
        question = {"accepted": list(accepted), "completion": completion}
        return self._ask(question, seconds)

    def start(self) -> None:
        """Start the process if it does not run, and wait until it can answer.

        Raises:
            RewardError: math-verify cannot be used here.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        root = Path(__file__).parents[3]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
            start_new_session=True,  # the signals of a terminal are for the trainer
        )
        try:
            ready = self._line(STARTUP_SECONDS)
        except (TimeoutError, EOFError):
            ready = None
        if ready is not True:
            self.stop()
            raise RewardError(
                "math-verify does not start here", "Install math-verify[antlr4_13_2] in the image"
            )

    def stop(self) -> None:
        """Kill the process, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                with suppress(BrokenPipeError):  # an unfinished question
                    stream.close()
            self._process = None

    def _ask(self, question: dict[str, Any], seconds: float) -> bool:
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        answered = False
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._line(seconds)
            answered = True
        except (EOFError, BrokenPipeError):
            raise TimeoutError("it ran out of memory") from None
        finally:
            if not answered:  # also if an alarm ends the wait, or the next answer would be this one
                self.stop()
        if answer is None:
            raise ArithmeticError("math-verify failed")
        return bool(answer)

    def _line(self, seconds: float) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        number, line = self._process.stdout.fileno(), b""
        deadline = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            if not select.select([number], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError
            chunk = os.read(number, 2**16)
            if not chunk:
                raise EOFError
            line += chunk
        return json.loads(line)


def of_reference(text: str) -> str:
    """A reference, marked as mathematics as a whole; words alone are a text."""
    if MARKED.search(text):
        return _spelled_out(text)
    return f"$\\text{{{text}}}$" if WORDS.fullmatch(text.strip()) else f"${_spelled_out(text)}$"


def of_completion(text: str) -> str:
    """A completion in which math-verify finds a whole answer: of ``2^{10}`` in a sentence, it would
    read the 2.
    """
    if MARKED.search(text):
        return _spelled_out(text)
    if len(text) < 200 and not PROSE.search(text):
        return f"${_spelled_out(text.strip())}$"
    found = read_answer(text)
    if found is None:
        return ""
    value = found.as_written.value
    return f"$\\frac{{{value.numerator}}}{{{value.denominator}}}{PERCENT if found.percent else ''}$"


def _spelled_out(text: str) -> str:
    """``1 3/4`` and ``1e5``, which math-verify reads as 1, in LaTeX."""
    mixed = MIXED.sub(r"\1\\frac{\2}{\3}", text)
    return SCIENTIFIC.sub(r"\1\\times10^{\2}", mixed)


@cache
def mathematician() -> Mathematician:
    """The one process of this trainer."""
    return Mathematician()


def answer_questions() -> None:
    """The process: answer questions until standard input ends."""
    import ctypes
    import logging
    import resource
    import signal

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints is an answer
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with its parent
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from math_verify import parse, verify

    for part in ("parser", "grader"):  # they warn about having no time limit
        logging.getLogger(f"math_verify.{part}").setLevel(logging.CRITICAL)

    def parsed(text: str) -> list[Any]:
        found = list(parse(text, parsing_timeout=None))
        return found if any(not isinstance(part, str) for part in found) else []

    def answer(question: dict[str, Any]) -> bool:
        if "reference" in question:
            return bool(parsed(of_reference(question["reference"])))
        found = parsed(of_completion(question["completion"]))
        return any(
            verify(parsed(of_reference(reference)), found, timeout_seconds=None)
            for reference in question["accepted"]
        )

    parsed(r"$\frac{1}{2}$")  # loads the grammar
    print("true", file=answers, flush=True)
    for line in sys.stdin:
        try:
            found: bool | None = answer(json.loads(line))
        except Exception:
            found = None
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    answer_questions()
