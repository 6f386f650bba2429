"""Bytes of main memory that this process holds, as the kernel counts them."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")


def resident(status: Path = STATUS) -> int:
    """Bytes held now."""
    return _field(status, "VmRSS")


def most_resident(status: Path = STATUS) -> int:
    """Bytes held at the most so far.

    Not ``getrusage``, whose figure a program inherits from the one that started it.
    """
    return _field(status, "VmHWM")


def _field(status: Path, name: str) -> int:
    for line in status.read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024  # "1234 kB"
    raise OSError(f"{status} has no {name}")
