"""GPU locks of one test alone, and other programs that lease."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aligntune_run.engines import gpu_leases
from aligntune_run.runs import launch

AS_OTHERS = """
import sys
from dataclasses import replace
from aligntune_run.engines import gpu_leases
from aligntune_run.host.gpus import Gpu
gpu_leases.PLACES = (sys.argv[1],)
GPU = Gpu(0, "GPU-aaaa", "NVIDIA H100", (9, 0), 2**36, 2**36)
"""
"""The beginning of a program that leases GPUs where the test does."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for locks, of this test alone."""
    folder = tmp_path / "locks"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(gpu_leases, "PLACES", (str(folder),))
    monkeypatch.setattr(gpu_leases, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.05)
    return folder


@pytest.fixture
def other(place: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start another program that leases; it has printed a line when this returns."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str, **how: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", AS_OTHERS + code, str(place), str(place.parent)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
            **how,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield begin
    for process in started:
        with process:
            process.kill()
