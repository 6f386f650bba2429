"""What is here, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, or a MIG slice, which a program sees as a separate GPU.

    Attributes:
        index: the driver's number; a slice has the number of its GPU.
        uuid: ``GPU-...``, or ``MIG-...`` for a slice.
        name: as the driver reports it.
        capability: compute capability.
        memory: bytes; the machine's memory if the GPU has no memory itself.
        free: unused bytes.
        users: the compute processes on it, as ``python (pid 4711)``, if the driver reports them.
        parent: UUID of a slice's GPU; None for a whole GPU.
        leased: the run that holds it; None if no run does.
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
    """What the driver reports.

    Attributes:
        found: the GPUs a program may use, in the order of ``nvidia-smi``, or in that of
            ``CUDA_VISIBLE_DEVICES``. A GPU with MIG on is not among them, its slices are.
        note: why there are none, or what could not be read about them.
        driver: the driver's version.
        cuda: the newest CUDA version that the driver runs, as ``13.0``; only NVML reports it.
        source: ``NVML`` or ``nvidia-smi``; empty if neither answers.
        failed: whether a driver is installed and could not report its GPUs.
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
    """The host's container engine, or why none is reachable.

    Attributes:
        kind: ``docker`` or ``podman``.
        gpu_way: how a container gets a GPU: by NVIDIA's container runtime or its hook, by the
            engine's own CDI devices, or not at all.
        cdi_devices: names of the CDI devices of NVIDIA's that the engine knows.
        cgroup_driver: ``systemd`` or ``cgroupfs``; empty if unknown.
        memory: bytes that its containers can use.
        root: where it keeps images.
        storage_free: bytes free there; None if unknown.
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
    """The image of a recipe, and how it can be obtained.

    ``id`` is the image's digest where it is present; ``how`` is ``present``, ``pull``, ``build``
    or None if it is unavailable, and ``reason`` says why.
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
    """Everything that a choice depends on. Paths are absolute, sizes are in bytes.

    Attributes:
        cpus: the number that this process may use; like ``memory``, within its cgroup's limits.
        gpus: the GPUs that a program may use, see :class:`~aligntune_run.host.types.Gpus`.
        gpu_note: why there are none, or what could not be read about them.
        gpu_failed: see :class:`~aligntune_run.host.types.Gpus`.
        driver: the NVIDIA driver's version; ``driver_cuda`` the newest CUDA that it runs.
        other_gpu: the vendor of an unsupported GPU.
        bf16: whether the CPU computes in bf16.
        cache_free: bytes free where ``cache`` is; None if unknown.
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
        """Bytes of main memory that a run can use."""
        return min(filter(None, (self.engine.memory, self.memory)))
