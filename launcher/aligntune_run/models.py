"""What a model's own files say, read without torch; unknown for a hub model not yet fetched."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from aligntune.errors import ModelError
from aligntune.spec import is_local

WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class ModelFacts:
    """``model_type`` as in ``config.json``; ``vision`` where the model takes images too."""

    model_type: str | None = None
    vision: bool = False


def read_model(name: str) -> ModelFacts:
    """The facts of a local model folder; empty ones for a hub id.

    Raises:
        ModelError: the folder is not a model, or has no weights.
    """
    if not is_local(name):
        return ModelFacts()
    folder = Path(name)
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file, not a model folder")
    if os.path.exists(folder / "adapter_config.json"):
        raise ModelError(
            f"{folder} is an adapter, not a model",
            "Name its base with --model, and the adapter with --set adapter.path=...",
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a model folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {folder / 'config.json'}: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'} names no model_type")
    if not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise ModelError(
            f"{folder} has no weights (*.safetensors or *.bin)", "Save or download them there"
        )
    return ModelFacts(config["model_type"], "vision_config" in config)
