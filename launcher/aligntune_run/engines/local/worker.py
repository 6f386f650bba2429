"""A local worker, reached by its handle from any process of the same user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from aligntune.errors import EngineError
from aligntune_run.engines.base import GRACE_SECONDS, Exit, WorkerStatus
from aligntune_run.engines.gpu_leases import Lease
from aligntune_run.engines.local import supervisor

TAIL_BYTES = 8192

POLL_SECONDS = 0.02

EXIT_SECONDS = 5.0
"""How long after a worker's end its supervisor may take to write down how it ended."""

FOLDER = ".worker"
"""In the run directory, while a worker is at work and until its end was seen."""


@dataclass(frozen=True)
class Handle:
    """A local worker: ``process:<pid>:<start time>:<boot id>:<folder>``.

    Attributes:
        start: when the process started, in ticks since boot: pids are used again.
        boot: id of this boot of the machine.
        folder: where its output and its exit are written.
    """

    pid: int
    start: int
    boot: str
    folder: Path

    def __str__(self) -> str:
        return f"process:{self.pid}:{self.start}:{self.boot}:{self.folder}"

    @classmethod
    def parse(cls, text: str) -> Handle:
        """Read a handle.

        Raises:
            EngineError: it is not a local worker's.
        """
        try:
            kind, pid, start, boot, folder = text.split(":", 4)
            if kind == "process":
                return cls(int(pid), int(start), boot, Path(folder))
        except ValueError:
            pass
        raise EngineError(
            f"{text!r} does not name a process of a run", "See `handle` in the run's run.json"
        )

    @property
    def is_alive(self) -> bool:
        """Whether the process is still there, on this boot of this machine."""
        return self.boot == boot_id() and supervisor.start_time(self.pid) == self.start


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def submit(
    arguments: Mapping[str, Any],
    environment: Mapping[str, str],
    record: Callable[[str], None],
    descriptors: Sequence[int] = (),
) -> tuple[Handle, subprocess.Popen[str]]:
    """Start a worker with a supervisor; both outlive this process.

    Args:
        arguments: its command and working directory.
        environment: all of its variables.
        record: is called with the handle before the worker's program starts.
        descriptors: open files that the worker inherits.

    Raises:
        EngineError: the program cannot be started.
    """
    folder = Path(arguments["working_dir"], FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    job = supervisor.Job(
        command=list(arguments["command"]), folder=str(folder), descriptors=list(descriptors)
    )
    try:
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__],
            env=environment,
            cwd=arguments["working_dir"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            pass_fds=tuple(descriptors),
        )
    except OSError as error:
        raise EngineError(f"cannot start {job['command'][0]}: {error.strerror}") from error
    try:
        handle, problem = _begin(process, job, record)
    except BaseException:
        process.wait()  # without the word to go, both end
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if problem:
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        raise EngineError(f"cannot start {job['command'][0]}: {problem}")
    return handle, process


def _begin(
    process: subprocess.Popen[str], job: supervisor.Job, record: Callable[[str], None]
) -> tuple[Handle, str]:
    """Have the supervisor fork the worker, record it and let it go; why it did not start."""
    assert process.stdin
    assert process.stdout
    with _pipe(process.stdin) as asked, process.stdout as answers:
        asked.write(json.dumps(job) + "\n")
        asked.flush()
        words = answers.readline().split()
        if len(words) != 2:
            raise EngineError(f"cannot start {job['command'][0]}: its supervisor ended")
        handle = Handle(int(words[0]), int(words[1]), boot_id(), Path(job["folder"]))
        record(str(handle))
        asked.write("go\n")
        asked.flush()
        return handle, answers.read().strip()


@contextlib.contextmanager
def _pipe(file: IO[str]) -> Any:
    """A pipe's end, of which the other end may close first."""
    try:
        yield file
    finally:
        with contextlib.suppress(BrokenPipeError):
            file.close()


@dataclass(frozen=True)
class Started:
    """What the process that started a worker keeps of it."""

    supervisor: subprocess.Popen[str]
    lease: Lease


class ProcessWorker:
    """A local worker, the leader of its own session.

    Args:
        handle: names it.
        started: what this process keeps of it, if it started it.
    """

    def __init__(self, handle: Handle, started: Started | None = None) -> None:
        self._handle = handle
        self._supervisor = started.supervisor if started else None
        self._lease = started.lease if started else Lease()
        self._kill_at = float("inf")
        self._killed = False
        self._exit: Exit | None = None
        self._gone_since: float | None = None

    @property
    def pid(self) -> int:
        return self._handle.pid

    @property
    def title(self) -> str:
        """How the user finds it."""
        return f"pid {self.pid}"

    @property
    def status(self) -> WorkerStatus:
        if self._exit or self._exit_file.exists():
            return "ended"
        return "running" if self._handle.is_alive else "gone"

    def wait(self, seconds: float) -> Exit | None:
        """How it ended, or None if it still runs after so many seconds.

        Raises:
            EngineError: it is gone, and nothing says how it ended.
        """
        until = time.monotonic() + seconds
        while self._exit is None:
            self._exit = self._find_exit()
            now = time.monotonic()
            if self._exit is not None:
                break
            if now >= self._kill_at:
                self.kill()
                return None
            if now >= until:
                return None
            time.sleep(min(POLL_SECONDS, until - now))
        return self._exit

    def stop(self) -> None:
        """Ask it to checkpoint and end; :meth:`wait` ends it after :data:`GRACE_SECONDS`.

        Only the leader gets the signal, as in a container: if its data loaders got it as well, they
        would be gone before it has written its checkpoint.
        """
        self._kill_at = min(self._kill_at, time.monotonic() + GRACE_SECONDS)
        if self._handle.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything that it started, now."""
        self._kill_at = float("inf")
        if self._handle.is_alive:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def detach(self) -> None:
        """Stop following it; the worker has inherited the locks on its GPUs."""
        self._lease.end()

    def output(self) -> str:
        """The last of what it printed."""
        try:
            with Path(self._handle.folder, supervisor.OUTPUT).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    @property
    def _exit_file(self) -> Path:
        return Path(self._handle.folder, supervisor.EXIT)

    def _find_exit(self) -> Exit | None:
        ended = self._supervisor is not None and self._supervisor.poll() is not None
        try:
            values = json.loads(self._exit_file.read_text())
        except OSError:
            if ended and self._supervisor:  # it could not write, as on a full disk
                return self._finish(int(self._supervisor.returncode), oom=False)
            self._require_supervised()
            return None
        if self._supervisor is not None:
            self._supervisor.wait()
        return self._finish(values["code"], values["oom"])

    def _require_supervised(self) -> None:
        """Refuse to wait for a worker that is gone without anybody to say how it ended."""
        if self._handle.is_alive:
            self._gone_since = None
            return
        self._gone_since = self._gone_since or time.monotonic()
        if time.monotonic() - self._gone_since > EXIT_SECONDS:
            raise EngineError(
                f"the worker ({self.title}) is gone, and how it ended is not known",
                "The machine restarted, or its supervisor was killed; resume the run",
            )

    def _finish(self, code: int, oom: bool) -> Exit:
        output = self.output()
        shutil.rmtree(self._handle.folder, ignore_errors=True)
        killed = self._killed and code == 128 + signal.SIGKILL
        return Exit(code, oom and not killed, output, killed)
