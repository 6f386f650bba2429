"""Freed memory goes back to the system between forward and backward, where training is on a CPU.

glibc keeps what is freed for later. What a forward pass leaves free lies in pieces between the
activations that are kept, and the backward pass, which needs larger ones, would take new memory:
half as much again with an adapter, seen with glibc 2.36. To give it back costs some percent of the
time, as pages are handed out anew.
"""

from __future__ import annotations

import ctypes
from typing import Any

from aligntune.training.ppo_model import decoder
from aligntune.training.resident import resident

WORTH = 2**28
"""Bytes that training holds from which on it is worth the time."""


def trim_after_forward(model: Any) -> None:
    """Trim the heap whenever the body of ``model`` has made activations that are kept.

    Does nothing where the C library is not glibc.
    """
    import torch

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return

    before = resident()

    def after(*_: Any) -> None:
        if torch.is_grad_enabled() and resident() > before + WORTH:
            trim(ctypes.c_size_t(0))

    decoder(model).register_forward_hook(after)
