"""Hosts as the launcher would find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligntune_run.host.types import Engine, Host

GPU = "GPU-3f6e3c9a-0000-0000-0000-000000000000"


def make_host(caches: Path, **values: Any) -> Host:
    fields: dict[str, Any] = {
        "system": "Linux",
        "machine": "x86_64",
        "uid": 1234,
        "gid": 2345,
        "cpus": 2,
        "memory": 2**34,
        "gpus": (),
        "gpu_note": "",
        "driver": None,
        "other_gpu": None,
        "engine": Engine(True),
        "images": (),
        "cache": caches / "aligntune",
        "hub_cache": caches / "huggingface" / "hub",
        "datasets_cache": caches / "huggingface" / "datasets",
        "token": None,
        "environment": {},
    }
    return Host(**fields | values)
