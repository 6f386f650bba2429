"""What an engine reports about itself, as plain data, from a single request."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from aligntune_run.host.resources import disk_free
from aligntune_run.host.types import Engine

GPU_HOOK = "nvidia-container-runtime-hook"
"""If this is on dockerd's path when it starts, dockerd passes GPUs by running it."""

NVIDIA_DEVICES = "nvidia.com/gpu"
"""The kind of the devices in NVIDIA's CDI specifications."""

SPECIFICATION_BYTES = 2**22
"""More than NVIDIA's toolkit writes for any number of GPUs and slices."""

PODMAN_FOLDERS = ("/etc/cdi", "/var/run/cdi")
PODMAN_WITH_CDI = (5, 4)
"""Older ones accept a request for a GPU through Docker's API and start without the GPU."""


def probe_engine(client: Any | None, reason: str) -> Engine:
    """What a connected Docker client reports about its engine.

    Args:
        client: a ``docker.DockerClient``; None if there is no connection.
        reason: why there is no connection.
    """
    if client is None:
        return Engine(False, reason)
    try:
        info = client.info()
    except Exception as error:  # the SDK raises requests' and its own errors alike
        return Engine(False, f"the engine does not answer: {error}")
    kind: Literal["docker", "podman"] = "podman" if "BuildahVersion" in info else "docker"
    version = str(info.get("ServerVersion") or "")
    devices = _podman_devices(version) if kind == "podman" else _docker_devices(info)
    root = str(info.get("DockerRootDir") or "")
    return Engine(
        reachable=True,
        kind=kind,
        address=client.api.base_url,
        version=version,
        rootless=any("name=rootless" in option for option in info.get("SecurityOptions") or ()),
        gpu_way=_gpu_way(kind, info.get("Runtimes") or {}, devices),
        cdi_devices=devices,
        cgroup_driver=info.get("CgroupDriver") or "",
        memory=info.get("MemTotal") or 0,
        root=root,
        # An engine in a VM of its own keeps images in a folder that is not on this machine.
        storage_free=disk_free(Path(root)) if os.path.isdir(root) else None,
    )


def _gpu_way(
    kind: str, runtimes: Iterable[str], devices: tuple[str, ...]
) -> Literal["none", "nvidia", "cdi"]:
    """How containers get GPUs; in a request, podman ignores NVIDIA's runtime and hook."""
    if kind == "docker" and ("nvidia" in runtimes or shutil.which(GPU_HOOK) is not None):
        return "nvidia"
    return "cdi" if devices else "none"


def _docker_devices(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Docker reports its CDI devices from 28.2 on; from 25 on it reports their folders."""
    found = info.get("DiscoveredDevices")
    if found is None:
        return nvidia_devices(info.get("CDISpecDirs") or ())
    names = [str(device["ID"]) for device in found if device.get("Source") == "cdi"]
    return tuple(name for name in names if name.startswith(f"{NVIDIA_DEVICES}="))


def _podman_devices(version: str) -> tuple[str, ...]:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return nvidia_devices(PODMAN_FOLDERS) if numbers >= PODMAN_WITH_CDI else ()


def nvidia_devices(folders: Iterable[str]) -> tuple[str, ...]:
    """The names of NVIDIA's devices that the CDI specifications in these folders describe."""
    found = []
    for specification in _specifications(folders):
        devices = specification.get("devices")
        if specification.get("kind") != NVIDIA_DEVICES or not isinstance(devices, list):
            continue
        names = (device.get("name") for device in devices if isinstance(device, dict))
        found += [f"{NVIDIA_DEVICES}={name}" for name in names if name and isinstance(name, str)]
    return tuple(found)


def _specifications(folders: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The readable and valid specification files; an engine skips the others too."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one takes a tenth of the time
    for folder in folders:
        for path in sorted(Path(folder).glob("*")):
            try:
                # A pipe would have its reader wait.
                if not os.path.isfile(path) or os.path.getsize(path) > SPECIFICATION_BYTES:
                    continue
                text = path.read_text(encoding="utf-8")
                if path.suffix == ".json":
                    values = json.loads(text)
                elif path.suffix in (".yaml", ".yml"):
                    values = yaml.load(text, loader)
                else:
                    continue
            except (OSError, ValueError, RecursionError, yaml.YAMLError):
                continue
            if isinstance(values, dict):
                yield values
