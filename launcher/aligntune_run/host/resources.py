"""Processors, memory and disk, as far as our cgroup lets us have them.

A pod with 8 GB on a machine with 512 has 8.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def cpu_count() -> int:
    """Processors that we may use: those that we may run on, or fewer by a cgroup's quota."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    shares = [float(cpus)]
    for folder in _cgroups("cpu"):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and all(map(str.isdecimal, quota)):  # else "max", or -1, for no limit
            shares.append(int(quota[0]) / int(quota[1]))
    return max(1, math.ceil(min(shares)))


def memory_total() -> int:
    """Bytes of memory that we may use: the machine's, or fewer by a cgroup's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _cgroups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += [int(word) for word in _words(folder / name) if word.isdecimal()]
    return min(limits)


def memory_available() -> int:
    """Bytes of memory that a program could have now, of those that we may use."""
    words = _words(PROC / "meminfo")
    told = dict(pairwise(words)).get("MemAvailable:")
    return min(memory_total(), int(told) << 10) if told else memory_total()


def computes_bf16() -> bool:
    """Whether a CPU computes in bf16 natively, which is torch's own test for it."""
    try:
        with (PROC / "cpuinfo").open(errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags.split()


def disk_free(folder: Path) -> int | None:
    """Bytes free where a folder is or would be made; None where that cannot be told."""
    for place in (folder, *folder.parents):
        try:
            disk = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize
    return None


def _cgroups(controller: str) -> Iterator[Path]:
    """The folders of our cgroup and of all above it, of which each may limit us.

    In a container the paths that the kernel tells may be those of the host: what is not there is
    passed over, and what limits the container lies at the top.
    """
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root = CGROUPS
        elif controller in controllers.split(","):
            root = CGROUPS / controller
        else:
            continue
        own = Path(path.lstrip("/"))
        yield from (root / part for part in (own, *own.parents))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def other_gpu() -> str | None:
    """The name of a GPU that no image supports, if the machine has one."""
    if Path("/dev/kfd").exists():
        return "AMD"
    if platform.system() == "Darwin":
        return "Apple"
    return None


def memory_limit(wanted: str | None, total: int) -> int:
    """Bytes a container may use: what was asked for, else all but a twentieth (1 GiB at least).

    Leaving the host a little means that a run too large for the machine is ended by its own limit,
    which the engine reports, rather than by the kernel choosing some process.
    """
    if wanted is None:
        return max(total - max(total // 20, 2**30), 2**29)
    size = wanted.lower().removesuffix("b")
    number = size.rstrip("kmgt")
    unit = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}[size[len(number) :]]
    return int(float(number) * 1024**unit)
