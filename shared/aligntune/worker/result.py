"""What a record tells about a run besides its figures: times, machine and versions."""

from __future__ import annotations

import os
import platform
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
