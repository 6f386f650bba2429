"""Errors of libraries in the user's words."""

from __future__ import annotations

import errno

from aligntune.errors import AligntuneError, OutOfMemoryError, OutputError

DISK_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    ". unexpected pos ",  # torch.save, which finds less written than it wrote
    "PytorchStreamWriter failed writing file",
)
"""What libraries say of a full disk."""


def foreseen(error: BaseException) -> AligntuneError | None:
    """The user's words for an error that is not a bug of ours, or None."""
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
        return OutOfMemoryError("out of memory: the host has no more", "Lower training.batch_size")
    return None


def _disk_full() -> OutputError:
    return OutputError(
        "no space left where the run directory or the caches are", "Free some, or use --output"
    )


def named(error: BaseException) -> str:
    """An error's class, and the first line of what it says if it says anything."""
    kind = type(error).__name__
    return f"{kind}: {first_line(error)}" if str(error).strip() else kind


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else repr(error)).rstrip(".")
