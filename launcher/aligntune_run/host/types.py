"""What is here, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, or one MIG slice of it, which a program sees as a GPU of its own.

    Attributes:
        index: the driver's number of it; of the whole GPU, where it is a slice.
        uuid: ``GPU-...``, or ``MIG-...`` for a slice.
        name: as the driver tells it.
        capability: compute capability.
        memory: bytes; the machine's own where the GPU has none of its own.
        free: bytes that nothing uses.
        users: the compute processes on it, as ``python (pid 4711)``, as far as the driver tells.
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
        found: the GPUs a program may use, in the order of ``nvidia-smi``, or in that of
            ``CUDA_VISIBLE_DEVICES``. A GPU with MIG on is not among them, its slices are.
        note: why there are none, or what about them could not be read.
        driver: the driver's version.
        cuda: the newest CUDA version that the driver runs, as ``13.0``; only NVML tells.
        source: ``NVML`` or ``nvidia-smi``; empty where neither answers.
        failed: whether there are GPUs that a driver failed to tell of, or none that it could.
    """

    found: tuple[Gpu, ...] = ()
    note: str = ""
    driver: str | None = None
    cuda: str | None = None
    source: str = ""
    failed: bool = False


def joined(*notes: str) -> str:
    """Notes as one."""
    return "; ".join(filter(None, notes))


@dataclass(frozen=True)
class Engine:
    """A container engine, or why there is none.

    Attributes:
        kind: ``docker`` or ``podman``.
        gpu_way: how a container gets a GPU: by NVIDIA's container runtime or its hook, by the
            engine's own CDI devices, or not at all.
        cdi_devices: names of the CDI devices of NVIDIA's that the engine knows.
        cgroup_driver: ``systemd`` or ``cgroupfs``; empty where it does not say.
        memory: bytes that it can give.
        root: where it keeps images.
        storage_free: bytes free there; None where that cannot be told.
    """

    reachable: bool
    reason: str = ""
    kind: Literal["docker", "podman"] = "docker"
    address: str = ""
    version: str = ""
    rootless: bool = False
    gpu_way: Literal["none", "nvidia", "cdi"] = "none"
    cdi_devices: tuple[str, ...] = ()
    cgroup_driver: str = ""
    memory: int = 0
    root: str = ""
    storage_free: int | None = None


@dataclass(frozen=True)
class ImageState:
    """An image that a recipe describes, and how it can be had.

    ``id`` is the image's digest where it is present; ``how`` is ``present``, ``pull``, ``build``
    or None where it cannot be had, for which ``reason`` says why.
    """

    backend: str
    flavour: str
    ref: str
    lock_hash: str
    id: str | None
    how: Literal["present", "pull", "build"] | None
    reason: str = ""


@dataclass(frozen=True)
class Host:
    """Everything that choosing may look at. Paths are absolute, sizes in bytes.

    Attributes:
        cpus: those that we may use; as ``memory``, as far as our cgroup lets us have it.
        gpus: those that a program may use, see :class:`~aligntune_run.host.types.Gpus`.
        gpu_note: why there are none, or what about them could not be read.
        gpu_failed: see :class:`~aligntune_run.host.types.Gpus`.
        driver: the NVIDIA driver's version; ``driver_cuda`` the newest CUDA that it runs.
        other_gpu: the vendor of a GPU that no image supports.
        bf16: whether the CPU computes in bf16.
        cache_free: bytes free where ``cache`` is; None where that cannot be told.
    """

    system: str
    machine: str
    uid: int
    gid: int
    cpus: int
    memory: int
    gpus: tuple[Gpu, ...]
    gpu_note: str
    driver: str | None
    other_gpu: str | None
    engine: Engine
    images: tuple[ImageState, ...]
    cache: Path
    hub_cache: Path
    datasets_cache: Path
    token: Path | None
    environment: dict[str, str]
    driver_cuda: str | None = None
    gpu_failed: bool = False
    bf16: bool = False
    cache_free: int | None = None

    @property
    def memory_usable(self) -> int:
        """Bytes of main memory that the engine can give a run."""
        return min(filter(None, (self.engine.memory, self.memory)))
