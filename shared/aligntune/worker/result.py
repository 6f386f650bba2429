"""The results of a run: the model's folder, and times, machine and versions for the record."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.worker.backend import installed_code
from aligntune.worker.device import Device
from aligntune.worker.modeling.model import plain
from aligntune.worker.modeling.reference import REFERENCE_ADAPTER

STACK = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "bitsandbytes",
    "unsloth",
)


@dataclass
class Clock:
    """Measures each phase in seconds, and reports it as an event."""

    events: EventWriter
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.events("phase", name=name)
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - began


def save_model(trainer: Any, tokenizer: Any, run: RunDir) -> None:
    """Write weights (safetensors) and tokenizer to ``model/``, atomically."""
    beside = run.path / "model.part"
    shutil.rmtree(beside, ignore_errors=True)
    trainer.save_model(str(beside))
    tokenizer.save_pretrained(str(beside))
    settings = getattr(plain(trainer.model), "generation_config", None)
    if settings is not None and not (beside / "generation_config.json").exists():
        settings.save_pretrained(str(beside))  # beside an adapter: the tokens that end generation
    (beside / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody needs
    shutil.rmtree(beside / REFERENCE_ADAPTER, ignore_errors=True)  # needed in training only
    for path in beside.iterdir():
        if path.is_file():  # safetensors makes files readable for their owner only
            path.chmod(_file_mode())
    if run.model.exists():  # of an earlier attempt whose record could not be written
        shutil.rmtree(run.model)
    os.replace(beside, run.model)


def _file_mode() -> int:
    """The mode of a new file under the caller's umask."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask


def stack_versions() -> dict[str, str]:
    """Versions of the training stack, by distribution."""
    found = {}
    for name in STACK:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def record_code(run: RunDir, events: EventWriter) -> None:
    """Add the hash of this worker's code to the record, and say if the run began with other code.

    ``code`` in the record lists the versions of the code that worked on the run, the newest last.
    """
    now, before = installed_code(), run.record().code
    if before and before[0] != now:
        events(
            "note",
            message=f"this run began with version {before[0][:12]} of the code and continues with "
            f"{now[:12]}",
        )
    if before[-1:] != [now]:
        run.update(code=[*before, now])


def machine(device: Device) -> dict[str, Any]:
    """The machine, for the record."""
    import torch

    return {
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if device.cuda
        else [],
    }
