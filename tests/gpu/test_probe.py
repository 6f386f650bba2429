"""The probe, held to torch.cuda on a real GPU, where a backend's environment is at hand.

PYTHONPATH=shared:launcher:images/trl python -m pytest tests/gpu/test_probe.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aligntune_run.host.gpus import probe_gpus
from aligntune_run.host.nvidia_smi import ask_nvidia_smi
from aligntune_run.host.types import Gpus

GIB = 1 << 30
HOLD = f"""
import torch
held = torch.zeros({4 * GIB}, dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info()[0], flush=True)
input()
"""


@pytest.fixture(scope="module")
def seen() -> Gpus:
    return probe_gpus()


@pytest.fixture
def holder() -> Iterator[tuple[int, int]]:
    """A process with 4 GiB of the first GPU: its pid, and what torch then says is free."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process.pid, int(process.stdout.readline())
        process.communicate("\n")


def test_the_probe_finds_what_torch_finds(seen: Gpus) -> None:
    import torch

    assert len(seen.found) == torch.cuda.device_count() > 0, seen.note
    assert seen.source == "NVML"
    assert seen.note == ""
    for number, gpu in enumerate(seen.found):
        properties = torch.cuda.get_device_properties(number)
        assert gpu.name == properties.name
        assert gpu.capability == (properties.major, properties.minor)
        assert gpu.uuid.removeprefix("GPU-").removeprefix("MIG-") == str(properties.uuid)
        # The driver keeps a little of it for itself.
        assert 0.95 * gpu.memory <= properties.total_memory <= gpu.memory
        assert 0 < gpu.free <= gpu.memory


def test_the_driver_runs_the_cuda_of_this_torch(seen: Gpus) -> None:
    import torch

    assert seen.driver
    assert seen.cuda
    assert tuple(map(int, seen.cuda.split("."))) >= tuple(map(int, torch.version.cuda.split(".")))


def test_memory_that_a_process_holds_is_not_free(seen: Gpus, holder: tuple[int, int]) -> None:
    pid, free = holder
    (now, *_) = probe_gpus().found
    assert now.free <= seen.found[0].free - 4 * GIB
    assert abs(now.free - free) < GIB
    # In a container the driver does not tell who it is.
    assert not now.users or any(user.endswith(f"(pid {pid})") for user in now.users)


def test_a_uuid_is_what_cuda_takes_for_it(seen: Gpus) -> None:
    last = seen.found[-1]
    count = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_name(0))"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": last.uuid}
    done = subprocess.run(
        [sys.executable, "-c", count], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"1 {last.name}"
    assert probe_gpus(environment).found[0].uuid == last.uuid


def test_nvidia_smi_says_the_same(seen: Gpus) -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("there is no nvidia-smi")
    if any(gpu.parent for gpu in seen.found):
        pytest.skip("nvidia-smi does not tell slices")
    told = ask_nvidia_smi(os.environ["PATH"])
    assert told.driver == seen.driver
    pairs = zip(told.found, probe_gpus({}).found, strict=True)
    for other, gpu in pairs:
        assert (other.index, other.uuid, other.name) == (gpu.index, gpu.uuid, gpu.name)
        assert other.capability == gpu.capability
        assert abs(other.memory - gpu.memory) < GIB
        assert abs(other.free - gpu.free) < GIB
