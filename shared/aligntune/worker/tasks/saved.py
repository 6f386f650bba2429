"""Load the model of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.errors import ModelError
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Task
from aligntune.worker.backend import Backend
from aligntune.worker.device import Device
from aligntune.worker.inputs.model import (
    load_config,
    load_model,
    load_tokenizer,
    locate,
    locate_model,
    row_length,
)


@dataclass(frozen=True)
class Saved:
    """Load the model of a finished run."""

    model: Any
    tokenizer: Any
    max_length: int | None
    backend: Backend
    device: Device


def load_saved(spec: RunSpec, run: RunDir, task: Task, backend: Backend, device: Device) -> Saved:
    """Load a run's model: full weights, or its adapter on the base model."""
    folder = locate(str(Path(task.of, "model")))
    if not folder.is_dir():
        raise ModelError(f"{task.of} has no model", "Resume the run first")
    tokenizer = load_tokenizer(spec, folder)
    head = spec.row.head
    path = folder
    if spec.adapter.type != "none":
        path = locate_model(spec, run)
        shape = spec.adapter.model_copy(update={"path": str(Path(task.of, "model"))})
        loaded = spec.model_copy(update={"adapter": shape})
    else:
        loaded = spec
    config = load_config(loaded, path)
    max_length = row_length(spec, config)
    model = load_model(loaded, path, config, max_length, backend, device, run, head)
    if device.cuda and spec.model.quantization == "none":
        model.to("cuda")
    return Saved(model, tokenizer, max_length, backend, device)
