"""Fingerprints of what a run was given, so that a record says whether two runs had the same."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

HEAD_BYTES = 2**20


def of_rows(dataset: Any) -> str:
    """SHA-256 of canonical rows, whatever file or format they came from."""
    total = sha256()
    for row in dataset:
        total.update(repr(sorted(row.items())).encode())
    return total.hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    return sha256(path.read_bytes()).hexdigest()


def of_model(folder: Path) -> str:
    """SHA-256 over names, sizes and first mebibyte of a model's files.

    That covers configuration, tokenizer and the headers of the weights, and tells two checkpoints
    apart in a second; hashing the weights whole would take longer than loading them.
    """
    total = sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
                total.update(sha256(file.read(HEAD_BYTES)).digest())
    return total.hexdigest()
