"""Fingerprints of a run's inputs, which show whether two runs had the same inputs."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from aligntune.data.rows import Rows
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.inputs.model import adapter_folder, locate
from aligntune.worker.inputs.rewards import reward_folder
from aligntune.worker.text.tokenize import is_chat

HEAD_BYTES = 2**20
SAMPLE_BYTES = 2**12
SAMPLES = 64
"""What is hashed of a large file: its first mebibyte, and samples spread evenly up to its end."""


def of_part(rows: Rows) -> dict[str, Any]:
    """Source and fingerprint of a part of the data, for the record."""
    return {
        "source": rows.source,
        "sha256": of_rows(rows.dataset),
        "chat": is_chat(rows.dataset) or "messages" in rows.dataset.column_names,
    }


def of_rows(dataset: Any) -> str:
    """SHA-256 of canonical rows, independent of their file and format."""
    total = sha256()
    for row in dataset:
        total.update(repr(sorted(row.items())).encode())
    return total.hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    return sha256(path.read_bytes()).hexdigest()


def of_model(folder: Path) -> str:
    """SHA-256 over names, sizes and samples of a model's files, without hidden files and notes.

    This covers the whole configuration and tokenizer, the headers of the weights, and a part of
    most weights, so it distinguishes two checkpoints of one shape within a second. Hashing all
    weights would take longer than loading them.
    """
    total = sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
            size = path.stat().st_size
            total.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                total.update(sha256(file.read(HEAD_BYTES)).digest())
                for number in range(1, SAMPLES + 1 if size > HEAD_BYTES else 1):
                    file.seek((size - SAMPLE_BYTES) * number // SAMPLES)
                    total.update(file.read(SAMPLE_BYTES))
    return total.hexdigest()


def of_files(spec: RunSpec, run: RunDir, model: Path) -> dict[str, Any]:
    """Source and fingerprint of model, adapter, chat template and rewards, for the record."""
    found: dict[str, Any] = {"model": {"source": spec.model.name, "fingerprint": of_model(model)}}
    if adapter := adapter_folder(spec, run):
        found["adapter"] = {"source": spec.adapter.path, "fingerprint": of_model(adapter)}
    if spec.model.chat_template:
        name = spec.model.chat_template
        found["chat_template"] = {"source": name, "sha256": of_file(locate(name))}
    rewards: list[dict[str, str]] = []
    for reward in spec.rewards:
        if reward.file:
            rewards.append({"source": str(reward.name), "sha256": of_file(locate(reward.file))})
        elif reward.model:
            folder = reward_folder(reward.model, reward.revision, run)
            rewards.append({"source": reward.model, "fingerprint": of_model(folder)})
    return {**found, "rewards": rewards} if rewards else found
