"""Bytes of main memory that this process holds, as the kernel counts them."""

from __future__ import annotations

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def resident(status: Path = STATUS) -> int:
    """Bytes held now; 0 where the kernel does not count them."""
    return _field(status, "VmRSS")


def most_resident(status: Path = STATUS) -> int:
    """Bytes held at the most so far.

    Not ``getrusage``, whose figure a program inherits from the one that started it, but where the
    kernel (gVisor's) does not count it.
    """
    return _field(status, "VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _field(status: Path, name: str) -> int:
    for line in status.read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024  # "1234 kB"
    return 0
