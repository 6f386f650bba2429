"""Prepares the caller's input and output streams, so that no run fails because of its output."""

from __future__ import annotations

import io
import os
import sys


def prepare_streams() -> None:
    """Open closed streams on the null device, and escape what the terminal's encoding lacks.

    Python sets a closed stream to None, and the next opened file would get its number. A worker
    would then print into that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
