"""Errors of libraries, translated for the user."""

from __future__ import annotations

import errno

from aligntune.errors import AligntuneError, OutOfMemoryError, OutputError

DISK_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    ". unexpected pos ",  # torch.save, which finds less written than it wrote
    "PytorchStreamWriter failed writing file",
)
"""What libraries report when the disk is full."""


def foreseen(error: BaseException) -> AligntuneError | None:
    """An error that is not a bug of ours, as one of our classes; else None."""
    if isinstance(error, AligntuneError):
        return error
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full()
    if any(sign in text for sign in DISK_FULL):
        return _disk_full()
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return OutOfMemoryError(
            f"out of memory: {first_line(error)}",
            "Lower training.batch_size (and raise gradient_accumulation), use "
            "training.gradient_checkpointing=true, --lora-rank or --load-in-4bit",
        )
    if "can't allocate memory" in text or "DefaultCPUAllocator" in text:
        return OutOfMemoryError(
            "out of memory: the host has no memory left", "Lower training.batch_size"
        )
    return None


def _disk_full() -> OutputError:
    return OutputError(
        "no space left on the disk of the run directory or the caches",
        "Free disk space, or set --output to a folder on another disk",
    )


def named(error: BaseException) -> str:
    """An error's class, and the first line of its message if it has one."""
    kind = type(error).__name__
    return f"{kind}: {first_line(error)}" if str(error).strip() else kind


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else repr(error)).rstrip(".")
