"""Runs untrusted code: each candidate in a confined child process.

:mod:`.child` defines what a candidate may do. The parent provides an almost empty environment, no
input, an empty working folder and a wall-clock limit. It kills everything in the child's session,
and counts only reports with the candidate's secret.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from aligntune.errors import RewardError

CHILD = Path(__file__).with_name("child.py")
READY = b"ready\n"
MOST_OUTPUT = 2**22
"""The most bytes of reports; a child with more is killed."""

STARTUP_SECONDS = 60.0
"""Time to start Python and confine it, before a candidate's time starts."""

NUMBERS = ("collections", "datetime", "decimal", "fractions", "numpy", "pandas", "sympy")
"""Modules whose values candidates return: their classes are not the candidate's own."""

IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import|import\s+([\w., ]+))", re.M)

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The whole environment. A candidate cannot start threads, which numpy would do when imported."""


@dataclass(frozen=True)
class Step:
    """Something to do with a candidate; a test if it ``counts``.

    Attributes:
        source: Python code that runs after the candidate's, in the same module. For a program, its
            standard input; for a call, a JSON object with a function's name and its arguments.
        kind: code passes if it raises nothing. What a program writes or a call returns is compared
            here, and the candidate's process does not know what is expected.
        expected: the program's output, or the call's result.
    """

    source: str
    counts: bool
    kind: Literal["code", "program", "call"] = "code"
    expected: Any = None

    def passes(self, result: Any) -> bool:
        """Whether the result that a candidate reported is right."""
        if self.kind == "code":
            return result is True
        if self.kind == "program":
            return isinstance(result, str) and _lines(result) == _lines(self.expected)
        # Some datasets put the result in a list.
        single = isinstance(self.expected, list) and len(self.expected) == 1
        return _same(result, self.expected) or (single and _same(result, self.expected[0]))


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; ``true`` is not 1, and 1.0 is 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _lines(text: str) -> list[list[str]]:
    """A text without the white space that nobody sees."""
    return [line.split() for line in text.strip().splitlines()]


@dataclass(frozen=True)
class Program:
    """A candidate's code and the steps after it."""

    source: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Limits:
    """The limits of one candidate: wall-clock seconds, and bytes of address space."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Verdict:
    """The number of tests that a program passed, and whether its time was up."""

    passed: int
    timed_out: bool


def run(programs: Sequence[Program], limits: Limits, parallel: int | None = None) -> list[Verdict]:
    """What each program achieved.

    Args:
        programs: several run at the same time, in any order.
        limits: of each program.
        parallel: programs that run at the same time; None is :func:`at_once`.

    Raises:
        RewardError: a child could not be started or confined.
    """
    waiting = deque(enumerate(programs))
    most = parallel or at_once()
    verdicts: dict[int, Verdict] = {}
    running: dict[int, _Child] = {}
    with tempfile.TemporaryDirectory() as folder, selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    index, program = waiting.popleft()
                    running[index] = _Child(program, limits, folder)
                    selector.register(running[index].reports, selectors.EVENT_READ, index)
                nearest = min(child.deadline for child in running.values()) - time.monotonic()
                for key, _ in selector.select(max(nearest, 0)):
                    running[key.data].read()
                for index, child in list(running.items()):
                    if child.ended or time.monotonic() > child.deadline:
                        selector.unregister(child.reports)
                        verdicts[index] = child.finish()
                        del running[index]
        finally:
            for child in running.values():
                child.kill()
    return [verdicts[index] for index in range(len(programs))]


def at_once() -> int:
    """Candidates to run at the same time: one per CPU, divided among this machine's trainers."""
    trainers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's
    return max(1, len(os.sched_getaffinity(0)) // trainers)


@cache
def require_confinement() -> None:
    """Check that candidates can be confined here.

    Raises:
        RewardError: they cannot be confined, with the reason.
    """
    (verdict,) = run([Program("", (Step("pass", True),))], Limits(STARTUP_SECONDS, 2**29))
    if not verdict.passed:
        raise RewardError(
            "the code reward cannot run even an empty candidate here",
            "Use another reward, or another machine",
        )


@dataclass
class _Child:
    """One candidate's process."""

    program: Program
    limits: Limits
    folder: str
    output: bytes = b""
    ended: bool = False
    ready: bool = False
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        order = {
            "token": self.token,
            "source": self.program.source,
            "steps": [{"kind": one.kind, "source": one.source} for one in self.program.steps],
            "modules": _modules(self.program),
            "cpu_seconds": int(self.limits.seconds) + 1,
            "memory": self.limits.memory,
            "parent": os.getpid(),
        }
        with _file_of(json.dumps(order).encode()) as orders:
            self.process = subprocess.Popen(
                # -I: neither the environment nor the current folder affects imports.
                [sys.executable, "-I", "-B", str(CHILD)],
                stdin=orders,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                cwd=self.folder,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        self.reports = self.process.stdout
        self.deadline = time.monotonic() + STARTUP_SECONDS

    def read(self) -> None:
        chunk = os.read(self.reports.fileno(), 2**16)
        self.output += chunk
        if not self.ready and self.output.startswith(READY):
            self.ready = True
            self.deadline = time.monotonic() + self.limits.seconds
        self.ended = not chunk or len(self.output) > MOST_OUTPUT

    def finish(self) -> Verdict:
        """Kill the child, and count the tests that it passed."""
        late = not self.ended or self.process.poll() == -signal.SIGXCPU
        self.kill()
        if not self.ready:
            output = self.output.decode(errors="replace").strip() or "no output"
            raise RewardError(
                f"code cannot be confined here: {output.splitlines()[-1]}",
                "Use another reward, or another machine",
            )
        results = self._results()
        passed = sum(
            number in results and step.passes(results[number])
            for number, step in enumerate(self.program.steps)
            if step.counts
        )
        return Verdict(passed, late)

    def _results(self) -> dict[int, Any]:
        """The result of each step with this candidate's secret."""
        found = {}
        for line in self.output.split(b"\n")[:-1]:
            token, _, rest = line.partition(b" ")
            number, _, result = rest.partition(b" ")
            if token == self.token.encode():
                try:
                    found[int(number)] = json.loads(result)
                except (ValueError, RecursionError):
                    continue
        return found

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reports.close()


def _modules(program: Program) -> list[str]:
    """Modules to import before the candidate, so that it cannot replace what tests use of them."""
    imported = {
        name.split()[0].partition(".")[0]
        for step in program.steps
        if step.kind == "code"
        for first, names in IMPORT.findall(step.source)
        for name in (first or names).split(",")
        if name.strip()
    }
    mentioned = {name for name in NUMBERS if name in program.source}
    return sorted(imported | mentioned)


@contextmanager
def _file_of(content: bytes) -> Iterator[int]:
    """An open temporary file with this content; unlike a pipe, it never blocks."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file.fileno()
