"""NVIDIA GPUs, as the driver tells of them. A failure is a fact in words, never an exception."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, or one MIG slice of it, which a program sees as a GPU of its own.

    Attributes:
        index: the driver's number of it; of the whole GPU, where it is a slice.
        uuid: ``GPU-...``, or ``MIG-...`` for a slice.
        name: as the driver tells it.
        capability: compute capability.
        memory: bytes.
        free: bytes that nothing uses.
        users: the compute processes on it, as ``python (pid 4711)``.
        parent: uuid of the GPU that it is a slice of; None where it is a whole one.
        leased: the run of ours that has it, None where none has.
    """

    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    memory: int
    free: int
    users: tuple[str, ...] = ()
    parent: str | None = None
    leased: str | None = None


@dataclass(frozen=True)
class Gpus:
    """What the driver says.

    Attributes:
        found: the GPUs a program may use, in the order in which CUDA numbers them.
        note: why there are none, or what about them could not be read.
        driver: the driver's version.
        cuda: the newest CUDA version that the driver runs, as ``13.0``.
        source: ``NVML``; empty where it does not answer.
    """

    found: tuple[Gpu, ...] = ()
    note: str = ""
    driver: str | None = None
    cuda: str | None = None
    source: str = ""


def probe_gpus(environment: Mapping[str, str] = os.environ) -> Gpus:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, through NVML."""
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return Gpus(note="no NVIDIA driver, as there is no libnvidia-ml.so.1")
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Gpus(note=f"NVML does not start: {error}")
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        gpus = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            gpus.append(
                Gpu(
                    index=index,
                    uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                    name=_text(nvml.nvmlDeviceGetName(handle)),
                    capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
                    memory=int(memory.total),
                    free=int(memory.free),
                )
            )
    except nvml.NVMLError as error:
        return Gpus(note=f"NVML fails: {error}")
    finally:
        nvml.nvmlShutdown()
    visible = _visible(tuple(gpus), environment.get("CUDA_VISIBLE_DEVICES"))
    note = "" if gpus else "NVML finds no GPU"
    if gpus and not visible:
        note = "CUDA_VISIBLE_DEVICES hides every GPU"
    return Gpus(visible, note, driver, source="NVML")


def _visible(gpus: tuple[Gpu, ...], wanted: str | None) -> tuple[Gpu, ...]:
    """The GPUs CUDA_VISIBLE_DEVICES leaves, in its order; CUDA stops at the first bad entry."""
    if wanted is None:
        return gpus
    kept: list[Gpu] = []
    for entry in filter(None, (part.strip() for part in wanted.split(","))):
        found = [gpu for gpu in gpus if entry == str(gpu.index) or gpu.uuid.startswith(entry)]
        if not found:
            break
        kept += found[:1]
    return tuple(kept)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
