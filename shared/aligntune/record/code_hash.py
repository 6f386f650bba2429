"""The hash of the worker's code, by which runs, images and the launcher name a version of it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

BACKEND_FILE = "aligntune_backend.py"


def code_hash(package: Path, backend: Path) -> str:
    """SHA-256 over the names and contents of the worker's Python files.

    Args:
        package: the folder ``aligntune``.
        backend: the file ``aligntune_backend.py``, which differs between images.

    Raises:
        OSError: a file cannot be read.
    """
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    total = sha256()
    for name, path in [*sorted(files.items()), (BACKEND_FILE, backend)]:
        total.update(f"{name}\0".encode())
        total.update(sha256(path.read_bytes()).digest())
    return total.hexdigest()
