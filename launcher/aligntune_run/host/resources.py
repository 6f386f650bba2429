"""Processors, memory and disk, within the limits of this process's cgroup.

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
    """How many processors this process may use, by its affinity and its cgroup's quota."""
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
    """Bytes of memory that this process may use: the machine's, or its cgroup's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _cgroups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += [int(word) for word in _words(folder / name) if word.isdecimal()]
    return min(limits)


def memory_available() -> int:
    """Bytes of :func:`memory_total` that are available now."""
    words = _words(PROC / "meminfo")
    told = dict(pairwise(words)).get("MemAvailable:")
    return min(memory_total(), int(told) << 10) if told else memory_total()


def computes_bf16() -> bool:
    """Whether the CPU computes in bf16 natively, by the same test as torch's."""
    try:
        with (PROC / "cpuinfo").open(errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags.split()


def disk_free(folder: Path) -> int | None:
    """Bytes free where a folder is or would be created; None if unknown."""
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
    """The folders of this process's cgroup and of all its parents; each may set a limit.

    In a container the kernel may report the host's paths: missing folders are skipped, and the
    container's limits are at the top.
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
    """Bytes that a container may use: as requested, else all but a twentieth (at least 1 GiB).

    The host keeps a little, so that a run that is too large for the machine reaches its own limit,
    which the engine reports, before the kernel kills some other process.
    """
    if wanted is None:
        return max(total - max(total // 20, 2**30), 2**29)
    size = wanted.lower().removesuffix("b")
    number = size.rstrip("kmgt")
    unit = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}[size[len(number) :]]
    return int(float(number) * 1024**unit)
