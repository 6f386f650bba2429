"""Input and output as the caller left them, made fit to use: no run dies of what it tells."""

from __future__ import annotations

import io
import os
import sys


def mend_streams() -> None:
    """Open what is closed to nowhere, and have what the terminal's encoding lacks escaped.

    A closed stream is None to Python, and its number would go to the next file that is opened,
    into which a worker would then print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
