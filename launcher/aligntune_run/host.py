"""What is here: GPUs, driver, engine, images, caches. Probed once, then plain data.

A failure while probing is a fact with a reason in words, never an exception; only a caller without
a home to keep caches in is told so.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aligntune.errors import EngineError

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
class Gpu:
    """One NVIDIA GPU; ``capability`` is its compute capability, ``memory`` is in bytes."""

    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    memory: int


@dataclass(frozen=True)
class Engine:
    """A container engine, or why there is none; ``memory`` in bytes is what it can give."""

    reachable: bool
    reason: str = ""
    address: str = ""
    version: str = ""
    rootless: bool = False
    passes_gpus: bool = False
    memory: int = 0


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
    """Everything that choosing may look at. Paths are absolute, sizes in bytes."""

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


def home() -> Path:
    """The caller's home.

    Raises:
        EngineError: there is none, as where a container is given a uid that nobody has.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise EngineError(
            f"uid {os.getuid()} has no home folder to keep caches in",
            "Set HOME, or XDG_CACHE_HOME",
        ) from error


def cache_dir(environment: Mapping[str, str]) -> Path:
    """Where this program keeps venvs, compile caches and processed data."""
    if named := environment.get("ALIGNTUNE_CACHE_DIR"):
        return _absolute(named)
    return _caches(environment) / "aligntune"


def hub_caches(environment: Mapping[str, str]) -> tuple[Path, Path]:
    """The caller's own Hugging Face caches, as huggingface_hub finds them: hub and datasets."""
    hub, datasets = environment.get("HF_HUB_CACHE"), environment.get("HF_DATASETS_CACHE")
    return (
        _absolute(hub) if hub else _hub_home(environment) / "hub",
        _absolute(datasets) if datasets else _hub_home(environment) / "datasets",
    )


def token_file(environment: Mapping[str, str]) -> Path | None:
    """The file with the caller's hub token, if there is one (``HF_TOKEN`` is handled apart)."""
    named = environment.get("HF_TOKEN_PATH")
    path = _absolute(named) if named else _hub_home(environment) / "token"
    return path if path.is_file() else None


def _hub_home(environment: Mapping[str, str]) -> Path:
    if named := environment.get("HF_HOME"):
        return _absolute(named)
    return _caches(environment) / "huggingface"


def _caches(environment: Mapping[str, str]) -> Path:
    named = environment.get("XDG_CACHE_HOME")
    return _absolute(named) if named else home() / ".cache"


def _absolute(path: str) -> Path:
    return Path(os.path.expanduser(path)).absolute()


def probe_gpus() -> tuple[tuple[Gpu, ...], str | None, str]:
    """NVIDIA GPUs through NVML, the driver's version, and a note on why there are none."""
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return (), None, "no NVIDIA driver, as there is no libnvidia-ml.so.1"
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return (), None, f"NVML does not start: {error}"
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        gpus = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append(
                Gpu(
                    index=index,
                    uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                    name=_text(nvml.nvmlDeviceGetName(handle)),
                    capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
                    memory=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                )
            )
    except nvml.NVMLError as error:
        return (), None, f"NVML fails: {error}"
    finally:
        nvml.nvmlShutdown()
    visible = _visible(tuple(gpus), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if gpus and not visible:
        return (), driver, "CUDA_VISIBLE_DEVICES hides every GPU"
    return visible, driver, "" if gpus else "NVML finds no GPU"


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


def other_gpu() -> str | None:
    """The name of a GPU that no image supports, if the machine has one."""
    if Path("/dev/kfd").exists():
        return "AMD"
    if platform.system() == "Darwin":
        return "Apple"
    return None


def probe_engine(client: Any | None, reason: str) -> Engine:
    """What a connected Docker client says of its engine.

    Args:
        client: a ``docker.DockerClient``, or None where there is no connection.
        reason: why there is none.
    """
    if client is None:
        return Engine(False, reason)
    try:
        info = client.info()
    except Exception as error:  # the SDK raises requests' and its own errors alike
        return Engine(False, f"the engine does not answer: {error}")
    security = info.get("SecurityOptions") or []
    return Engine(
        reachable=True,
        address=client.api.base_url,
        version=info.get("ServerVersion", ""),
        rootless=any("name=rootless" in option for option in security),
        passes_gpus="nvidia" in (info.get("Runtimes") or {})
        or bool(info.get("DiscoveredDevices"))
        or shutil.which("nvidia-container-runtime-hook") is not None,
        memory=info.get("MemTotal", 0),
    )


def memory_total() -> int:
    """Physical memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def probe(engine: Engine, images: tuple[ImageState, ...]) -> Host:
    """This machine as plain data; the engine and its images are asked by those who talk to it."""
    gpus, driver, note = probe_gpus()
    hub, datasets = hub_caches(os.environ)
    return Host(
        system=platform.system(),
        machine=platform.machine(),
        uid=os.getuid(),
        gid=os.getgid(),
        cpus=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        memory=memory_total(),
        gpus=gpus,
        gpu_note=note,
        driver=driver,
        other_gpu=None if gpus else other_gpu(),
        engine=engine,
        images=images,
        cache=cache_dir(os.environ),
        hub_cache=hub,
        datasets_cache=datasets,
        token=token_file(os.environ),
        environment={name: os.environ[name] for name in HUB_VARIABLES if name in os.environ},
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
