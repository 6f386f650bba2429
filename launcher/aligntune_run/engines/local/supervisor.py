"""The parent of a local worker: it starts the worker, waits for it and writes down how it ended.

It is a program of its own, so that a worker can outlive the launcher and its exit code is still
known. It imports the standard library only. The launcher talks to it through two pipes:

1. It reads one line of JSON, see :class:`Job`, and forks the worker, which waits.
2. It writes the worker's pid and start time. The launcher records these.
3. It reads ``go``; the worker starts its program. At the end of the file the worker ends unstarted.
4. It writes an empty line, or why the program did not start, and closes the pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import NoReturn, TypedDict

OUTPUT = "output"
EXIT = "exit.json"
"""Files of a worker, in its own folder: what it printed, and how it ended."""


class Job(TypedDict):
    """What is started.

    Attributes:
        command: program and arguments; the environment and directory are the supervisor's own.
        folder: where :data:`OUTPUT` and :data:`EXIT` are written.
        descriptors: open files that the worker inherits.
    """

    command: list[str]
    folder: str
    descriptors: list[int]


def main() -> int:
    """Supervise one worker; the exit code is the worker's, as a shell gives it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # signals are for the worker, which has its own pid
    job: Job = json.loads(sys.stdin.readline())
    before = oom_kills()
    gate, opener = os.pipe()
    problem, reporter = os.pipe()  # closed by exec
    pid = os.fork()
    if pid == 0:
        os.close(opener)
        os.close(problem)
        _become(job, gate, reporter)
    for descriptor in (gate, reporter, *job["descriptors"]):
        os.close(descriptor)
    _answer(f"{pid} {start_time(pid)}")
    if sys.stdin.readline() == "go\n":
        os.write(opener, b"x")
    os.close(opener)
    with open(problem, encoding="utf-8") as file:
        _answer(file.read())
    os.close(1)
    code = _wait(pid)
    after = oom_kills()
    oom = code == 128 + signal.SIGKILL and None not in (before, after) and after != before
    with contextlib.suppress(OSError):  # the folder is gone or the disk is full
        beside = Path(job["folder"], f"{EXIT}.part")
        beside.write_text(json.dumps({"code": code, "oom": oom}))
        beside.rename(Path(job["folder"], EXIT))
    return code


def _answer(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the launcher may be killed at any time
        os.write(1, f"{line}\n".encode())


def _become(job: Job, gate: int, reporter: int) -> NoReturn:
    """Turn this process into the worker, once the launcher has recorded it."""
    try:
        os.setsid()
        if not os.read(gate, 1):
            os._exit(128 + signal.SIGTERM)
        null = os.open(os.devnull, os.O_RDONLY)
        output = os.open(Path(job["folder"], OUTPUT), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(job["command"][0], job["command"])
    except OSError as error:
        os.write(reporter, (error.strerror or str(error)).encode())
    os._exit(127)


def _wait(pid: int) -> int:
    """Wait for a worker and end what it leaves behind; its exit code, as a shell gives it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its pid stays its own until it is reaped
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code


def start_time(pid: int) -> int | None:
    """When a process started, in the kernel's ticks since boot; None if there is no such process.

    With the pid it identifies a process: the kernel uses pids again.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[19])


def oom_kills() -> int | None:
    """How often the kernel killed for lack of memory in this cgroup; None if it does not say."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    places = [Path("/proc/vmstat")]  # the whole machine's, if the cgroup keeps no count
    for group in groups:
        number, controllers, path = group.split(":", 2)
        if number == "0":
            places.insert(0, Path("/sys/fs/cgroup", path.lstrip("/"), "memory.events"))
        elif "memory" in controllers.split(","):
            folder = Path("/sys/fs/cgroup/memory", path.lstrip("/"))
            places.insert(0, folder / "memory.oom_control")
    for place in places:
        with contextlib.suppress(OSError):
            if count := re.search(r"^oom_kill (\d+)$", place.read_text(), re.MULTILINE):
                return int(count[1])
    return None


if __name__ == "__main__":
    sys.exit(main())
