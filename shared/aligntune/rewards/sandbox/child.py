"""The child process of one candidate: it confines itself, then runs untrusted code.

It runs as a separate script: ``python -I child.py`` with JSON orders on standard input. It reports
on standard output: ``ready`` once it is confined, then its secret, a number and a result for each
step that succeeded. :mod:`.integrity` protects what judges from the candidate.

The kernel confines it with resource limits (memory, CPU time, open files) and a filter of system
calls (seccomp, https://docs.kernel.org/userspace-api/seccomp_filter.html) with a list of allowed
calls. This needs no privilege, so it works for any uid and in any container. The list does not
contain, and so prevents: starting a process or thread, sending signals to another process, opening
a file for writing or changing it, sockets to other machines or processes, tracing.
"""

from __future__ import annotations

import ctypes
import errno
import io
import itertools
import json
import os
import platform
import re
import resource
import signal
import struct
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import SourceFileLoader
from typing import Any

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
AUDIT_ARCH_X86_64 = 0xC000003E
KILL, ALLOW, REFUSE = 0x80000000, 0x7FFF0000, 0x00050000
LOAD, JUMP_IF_EQUAL, RETURN, AND = 0x20, 0x15, 0x06, 0x54
"""Classic BPF: load a word of the call, compare, return a verdict, mask."""

OPEN_FILES = 64
PIPE_BYTES = 60_000
"""A pipe holds this much without a reader."""

MOST_WRITTEN = 2**18
"""Bytes of a program's output; one that writes more fails."""

ALLOWED = """
its own memory: mmap=9 mprotect=10 munmap=11 brk=12 mremap=25 mincore=27 madvise=28 arch_prctl=158
    membarrier=324
reading, and writing to what is open: its reports and /dev/null: read=0 write=1 close=3 lseek=8
    pread64=17 readv=19 writev=20 pipe=22 dup=32 dup2=33 dup3=292 pipe2=293 eventfd2=290
looking at files: stat=4 fstat=5 lstat=6 access=21 getcwd=79 chdir=80 fchdir=81 readlink=89
    statfs=137 fstatfs=138 getdents64=217 newfstatat=262 readlinkat=267 faccessat=269 statx=332
    faccessat2=439
waiting, also on both ends of a pair of sockets, which asyncio makes for itself: poll=7 select=23
    pselect6=270 ppoll=271 epoll_wait=232 epoll_ctl=233 epoll_pwait=281 epoll_create1=291
    sendto=44 recvfrom=45 shutdown=48 getsockopt=55 wait4=61 waitid=247 pause=34
    restart_syscall=219
time: nanosleep=35 getitimer=36 alarm=37 setitimer=38 gettimeofday=96 times=100 time=201
    clock_gettime=228 clock_getres=229 clock_nanosleep=230 sched_yield=24
signals to itself, as from its own timer: rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15
    rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130 sigaltstack=131
who and where it is: getpid=39 uname=63 getrlimit=97 getrusage=98 sysinfo=99 getuid=102 getgid=104
    geteuid=107 getegid=108 getppid=110 getpgrp=111 getgroups=115 getpgid=121 getsid=124
    gettid=186 getcpu=309 sched_getaffinity=204
locks, chance and the end: futex=202 set_tid_address=218 set_robust_list=273 get_robust_list=274
    rseq=334 getrandom=318 exit=60 exit_group=231
"""
"""System calls of x86-64 that a candidate may make, whatever their arguments."""

WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
DUPLICATE_AND_FLAGS = (0, 1, 2, 3, 4, 1030)  # of fcntl: nothing that sets who gets a signal
LOOKS_AT_A_TERMINAL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
SOCK_TYPE, SOCK_STREAM = 0xF, 1

CONDITIONAL = (
    # name, number, argument, mask, allowed values under the mask, error of a refusal
    ("open", 2, 1, WRITING, (0,), errno.EROFS),
    ("openat", 257, 2, WRITING, (0,), errno.EROFS),
    ("fcntl", 72, 1, 0xFFFFFFFF, DUPLICATE_AND_FLAGS, errno.EPERM),
    ("ioctl", 16, 1, 0xFFFFFFFF, LOOKS_AT_A_TERMINAL, errno.ENOTTY),
    ("socketpair", 53, 1, SOCK_TYPE, (SOCK_STREAM,), errno.EPERM),
)
"""System calls that are allowed only with some arguments."""


def main() -> None:
    orders = json.loads(sys.stdin.buffer.read())
    reports = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    integrity = beside("integrity", "integrity")
    modules = orders.pop("modules")
    if "pytest" in modules:
        sys.modules["pytest"] = beside("pytest_functions", "pytest")
    judge = integrity.Judge(modules)
    try:
        confine(orders["parent"], orders["memory"], orders["cpu_seconds"])
    except Exception as error:
        os.write(reports, f"{error}\n".encode())
        os._exit(1)
    os.write(reports, b"ready\n")
    candidate = Candidate(orders.pop("source"), judge)
    sys.addaudithook(integrity.watch())
    # The secret and the steps to come are in no variable that a candidate could find in a frame.
    deque(
        map(
            partial(report, os.write, reports),
            map(candidate.attempt, orders.pop("steps")),
            numbered(orders.pop("token")),
        ),
        maxlen=0,
    )
    os._exit(0)


def beside(file: str, name: str) -> types.ModuleType:
    """A module in the folder of this script, which is on no path."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{file}.py")
    module = types.ModuleType(name)
    SourceFileLoader(name, path).exec_module(module)
    return module


def numbered(token: str) -> Iterator[str]:
    """The beginning of the report on each step."""
    return map(f"{token} %d ".__mod__, itertools.count())


def report(write: Callable[[int, bytes], int], reports: int, result: str | None, head: str) -> None:
    """Report a step that succeeded."""
    if result is not None:
        left = f"{head}{result}\n".encode("utf-8", "surrogatepass")
        while left:
            left = left[write(reports, left) :]


class Candidate:
    """A candidate's code, and the steps that use it."""

    def __init__(self, source: str, judge: Any) -> None:
        self._source, self._judge = source, judge
        self._module: types.ModuleType | None = None
        self._failed = False
        # What a candidate replaces is not used.
        self._execute, self._compile, self._evaluate = exec, compile, eval
        self._dumps, self._loads = json.JSONEncoder(allow_nan=False).encode, json.loads
        self._pipe, self._write, self._dup2, self._close = os.pipe, os.write, os.dup2, os.close
        sys.argv = ["candidate.py"]

    def attempt(self, step: dict[str, str]) -> str | None:
        """The result of a step as JSON; None if it fails."""
        try:
            if step["kind"] == "program":
                return self._program(step["source"])
            if self._module is None and not self._failed:
                self._failed = True  # unless it runs to its end
                self._module = self._load("candidate")
                self._failed = False
            if self._module is None or self._failed:
                return None
            self._judge.restore(self._module)
            if step["kind"] == "call":
                return self._call(self._loads(step["source"]))
            code = self._compile(step["source"], "tests", "exec", dont_inherit=True)
            self._execute(code, self._module.__dict__)
            return "true"
        except BaseException:  # SystemExit too, which ends a candidate without passing
            return None

    def _load(self, name: str) -> types.ModuleType:
        module = types.ModuleType(name)
        for known in (name, "candidate", "solution", "__main__"):
            sys.modules[known] = module
        # Without dont_inherit, it would get the future imports of this script.
        code = self._compile(self._source, "candidate.py", "exec", dont_inherit=True)
        self._execute(code, module.__dict__)
        return module

    def _program(self, given: str) -> str | None:
        """Run the whole candidate as a program; its standard output."""
        data = given.encode("utf-8", "surrogatepass")
        if len(data) <= PIPE_BYTES:  # also for those that read the file 0
            read, write = self._pipe()
            self._write(write, data)
            self._close(write)
            self._dup2(read, 0)
            self._close(read)
        output = io.BytesIO()
        sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogatepass")
        sys.stdout = io.TextIOWrapper(output, encoding="utf-8", errors="surrogatepass")
        try:
            self._load("__main__")
        except SystemExit as error:
            if error.code not in (None, 0):
                return None
        sys.stdout.flush()
        written = output.getvalue()
        if len(written) > MOST_WRITTEN:
            return None
        return self._dumps(written.decode("utf-8", "surrogatepass"))

    def _call(self, call: dict[str, Any]) -> str:
        """Call a function, or the method of a class Solution; its result."""
        assert self._module is not None
        names = vars(self._module)
        name = call["function"]
        function = names[name] if name in names else getattr(names["Solution"](), name)
        return self._dumps(function(*call["arguments"]))


def confine(parent: int, memory: int, cpu_seconds: int) -> None:
    """Give up everything that a candidate does not need, permanently.

    Raises:
        OSError: the kernel refuses.
        RuntimeError: the machine is not x86-64, whose system calls the filter lists.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(option: int, *arguments: int | ctypes.c_void_p) -> None:
        rest = [*arguments, 0, 0, 0, 0][:4]
        if libc.prctl(option, *(ctypes.c_ulong(a) if isinstance(a, int) else a for a in rest)):
            number = ctypes.get_errno()
            raise OSError(number, f"prctl {option}: {os.strerror(number)}")

    if platform.machine() != "x86_64":
        raise RuntimeError(
            f"the code reward supports x86-64 only, and this machine is {platform.machine()}"
        )
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent has ended
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # if memory runs out, this process is killed first
    except OSError:
        pass
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        # The filter prevents writing and forking; these limits apply if the filter fails.
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    program = seccomp_program()
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    filter_ = ctypes.create_string_buffer(head, len(head))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.cast(filter_, ctypes.c_void_p))


def seccomp_program() -> bytes:
    """The filter: allow listed calls, refuse others, kill on another architecture."""
    code: list[bytes] = []

    def add(operation: int, value: int, if_so: int = 0, if_not: int = 0) -> None:
        code.append(struct.pack("HBBI", operation, if_so, if_not, value))

    add(LOAD, 4)  # the architecture
    add(JUMP_IF_EQUAL, AUDIT_ARCH_X86_64, 1, 0)
    add(RETURN, KILL)
    add(LOAD, 0)  # the number of the call; x32 numbers have an extra bit and match nothing
    for number in map(int, re.findall(r"=(\d+)", ALLOWED)):
        add(JUMP_IF_EQUAL, number, 0, 1)
        add(RETURN, ALLOW)
    for _, number, argument, mask, values, refusal in CONDITIONAL:
        add(JUMP_IF_EQUAL, number, 0, 3 + 2 * len(values))
        add(LOAD, 16 + 8 * argument)  # the lower half, which is the whole int
        add(AND, mask)
        for value in values:
            add(JUMP_IF_EQUAL, value, 0, 1)
            add(RETURN, ALLOW)
        add(RETURN, REFUSE | refusal)
    add(RETURN, REFUSE | errno.EPERM)
    return b"".join(code)


if __name__ == "__main__":
    main()
