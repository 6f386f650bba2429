"""What is slow to make is made once and shared by all workers of a test run."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "TESTS_SHARED_FOLDER"
"""Names the folder to the workers."""


def begin() -> None:
    """Make the folder, readable for the runs' own user; workers inherit it and leave it alone."""
    if VARIABLE not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="aligntune-shared-"))
        folder.chmod(0o755)
        os.environ[VARIABLE] = str(folder)
        atexit.register(shutil.rmtree, folder)


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """One worker at a time; the path of that name in the shared folder."""
    path = Path(os.environ[VARIABLE], name)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name, which the first worker to ask for it makes."""
    with locked(name) as folder:
        if not folder.exists():
            part = folder.with_suffix(".part")
            make(part)
            part.rename(folder)
    return folder
