"""Fingerprints of a run's inputs, which show whether two runs had the same inputs."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.worker.inputs.fetch import fetched
from aligntune.worker.inputs.model import locate
from aligntune.worker.inputs.rewards import reward_folder

HEAD_BYTES = 2**20


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
    """SHA-256 over names, sizes and first mebibyte of a model's files.

    This covers configuration, tokenizer and the headers of the weights, and distinguishes two
    checkpoints within a second. Hashing all weights would take longer than loading them.
    """
    total = sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
                total.update(sha256(file.read(HEAD_BYTES)).digest())
    return total.hexdigest()


def other_inputs(spec: RunSpec, run: RunDir) -> dict[str, Any]:
    """The other inputs of a run: adapter, chat template, rewards."""
    found: dict[str, Any] = {}
    if spec.adapter.path:
        name = spec.adapter.path
        path = locate(name) if is_local(name) else Path(fetched(run)["adapter"]["path"])
        found["adapter"] = {"source": name, "fingerprint": of_model(path)}
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
