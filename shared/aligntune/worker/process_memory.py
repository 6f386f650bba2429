"""Main memory that this process holds, and what of it goes back where training is on a CPU.

glibc keeps what is freed for later. What a forward pass leaves free lies in pieces between the
activations that are kept, and the backward pass, which needs larger ones, would take new memory:
half as much again with an adapter, seen with glibc 2.36. To give it back costs up to a seventh of
the time of a small model, as pages are handed out anew.
"""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path
from typing import Any

from aligntune.worker.modeling.model import decoder

WORTH = 2**28
"""Bytes that training holds from which on it is worth the time."""


def trim() -> None:
    """Give back what is free; nothing happens where the C library is not glibc."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(ctypes.c_size_t(0))


def trim_after_forward(model: Any) -> None:
    """Trim whenever the body of ``model`` has made activations that are kept."""
    import torch

    before = resident()

    def after(*_: Any) -> None:
        if torch.is_grad_enabled() and resident() > before + WORTH:
            trim()

    try:
        body = decoder(model)
    except AttributeError:  # a model with code of its own may be of one piece
        body = model
    body.register_forward_hook(after)


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
