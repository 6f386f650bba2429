"""What is here: GPUs, driver, engine, images, caches. Probed once, then plain data.

A failure while probing is a fact with a reason in words, never an exception; only a caller without
a home to keep caches in is told so. GPUs are asked for in :mod:`aligntune_run.host.gpus`, the rest
of the hardware in :mod:`aligntune_run.host.resources`.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aligntune_run.host.caches import cache_dir, hub_caches, token_file
from aligntune_run.host.gpus import Gpu, probe_gpus
from aligntune_run.host.resources import computes_bf16, cpu_count, disk_free, memory_total

HUB_VARIABLES = (
    "HF_ENDPOINT",
    "HF_HUB_DISABLE_XET",
    "HF_HUB_OFFLINE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""Variables of the caller that a container with the network is given."""


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
        gpus: those that a program may use, see :class:`~aligntune_run.host.gpus.Gpus`.
        gpu_note: why there are none, or what about them could not be read.
        gpu_failed: see :class:`~aligntune_run.host.gpus.Gpus`.
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


def other_gpu() -> str | None:
    """The name of a GPU that no image supports, if the machine has one."""
    if Path("/dev/kfd").exists():
        return "AMD"
    if platform.system() == "Darwin":
        return "Apple"
    return None


def probe(engine: Engine, images: tuple[ImageState, ...]) -> Host:
    """This machine as plain data; the engine and its images are asked by those who talk to it."""
    gpus = probe_gpus()
    cache = cache_dir(os.environ)
    hub, datasets = hub_caches(os.environ)
    return Host(
        system=platform.system(),
        machine=platform.machine(),
        uid=os.getuid(),
        gid=os.getgid(),
        cpus=cpu_count(),
        memory=memory_total(),
        gpus=gpus.found,
        gpu_note=gpus.note,
        driver=gpus.driver,
        other_gpu=None if gpus.found else other_gpu(),
        engine=engine,
        images=images,
        cache=cache,
        hub_cache=hub,
        datasets_cache=datasets,
        token=token_file(os.environ),
        environment={name: os.environ[name] for name in HUB_VARIABLES if name in os.environ},
        gpu_failed=gpus.failed,
        driver_cuda=gpus.cuda,
        bf16=computes_bf16(),
        cache_free=disk_free(cache),
    )
