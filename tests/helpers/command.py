"""The command line as a program, and what looks like a model to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers.checkpoints import write_safetensors

ROOT = Path(__file__).parents[2]


TRACEBACK = "Traceback (most recent call last)"


def run(
    *words: str | Path, environment: dict[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aligntune_run", *map(str, words)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def model_folder(folder: Path, model_type: str = "llama") -> Path:
    """What looks like a model to the launcher, which reads the headers of weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    write_safetensors(folder / "model.safetensors")
    return folder
