"""Checks of the GPUs: present, visible, new enough, free, and passed to containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aligntune.errors import HardwareError
from aligntune_run.doctor.checks.base import Checks, fail, gigabytes, good, warn
from aligntune_run.doctor.probe import Findings
from aligntune_run.plan import Verdict
from aligntune_run.selection.rules import runs

USED = 0.1
"""A GPU with more than this fraction of its memory in use gets a warning."""


def gpu(found: Findings) -> Iterator[Verdict]:
    host = found.host
    hidden = "CUDA_VISIBLE_DEVICES" in found.environment
    for one in host.gpus:
        slice_of = f" (a slice of GPU {one.index})" if one.parent else ""
        yield good(f"{one.index}: {one.name}{slice_of}, {gigabytes(one.memory)}, {one.uuid}")
    if host.gpus:
        if host.gpu_note:
            yield warn(host.gpu_note, "See `nvidia-smi`")
        return
    if host.driver and hidden:
        yield warn(f"no GPU is used: {host.gpu_note}", "`unset CUDA_VISIBLE_DEVICES`")
    elif found.driver_loaded and not _devices(found):
        yield fail(
            "NVIDIA's driver is loaded, but there are no device files /dev/nvidia*",
            "`sudo nvidia-modprobe -u -c=0`; in a container, pass the GPU to it",
        )
    elif found.driver_loaded or host.gpu_failed:
        yield fail(
            f"NVIDIA's driver is installed, but no GPU can be used: {host.gpu_note}",
            "See `nvidia-smi`; after a driver update, restart the machine",
        )
    elif "NVIDIA" in found.displays and "nouveau" not in found.modules:
        yield fail(
            f"there is an NVIDIA GPU but no driver for it: {host.gpu_note}",
            "Install it, on Debian `sudo apt install nvidia-driver`, on Ubuntu "
            "`sudo ubuntu-drivers install`, and restart",
        )
    elif "NVIDIA" not in found.displays and not host.other_gpu:
        yield warn(
            f"none: {host.gpu_note}; training uses the CPU",
            "Nothing to fix. If the machine has a GPU, check `lspci | grep -i nvidia`",
        )


def nouveau(found: Findings) -> Iterator[Verdict]:
    if "nouveau" in found.modules and "NVIDIA" in found.displays:
        yield fail(
            "the NVIDIA GPU uses the nouveau driver, which does not support CUDA",
            "Install NVIDIA's driver, `echo blacklist nouveau | sudo tee "
            "/etc/modprobe.d/no-nouveau.conf && sudo update-initramfs -u`, and restart",
        )


def other_vendor(found: Findings) -> Iterator[Verdict]:
    vendor = found.host.other_gpu or ("AMD" if "AMD" in found.displays else None)
    if vendor and not found.host.gpus:
        yield warn(
            f"the machine's GPU is from {vendor}, which neither backend's image supports",
            "Train on the CPU with --gpus 0",
        )


def driver(found: Findings) -> Iterator[Verdict]:
    if not found.host.gpus or not found.host.driver:
        return
    for backend, facts in _cuda(found):
        least = str(facts["min_driver"])
        evidence = f"driver {found.host.driver}; CUDA {facts['cuda']} of {backend} needs {least}"
        if _numbers(found.host.driver) < _numbers(least):
            yield fail(evidence, f"Update the driver to {least} or newer, or use --gpus 0")
        else:
            yield good(evidence)


def capability(found: Findings) -> Iterator[Verdict]:
    for backend, facts in _cuda(found):
        for one in found.host.gpus:
            has = f"{one.capability[0]}.{one.capability[1]}"
            known = list(facts.get("arch_list") or ())
            least = str(facts["min_compute_capability"])
            named = f"GPU {one.index} ({one.uuid})"
            evidence = f"{named} has compute capability {has}; {backend} needs {least}"
            if one.capability < _numbers(least):
                yield fail(evidence, "Use a newer GPU, or --gpus 0")
            elif known and not any(runs(arch, one.capability) for arch in known):
                yield fail(f"{evidence} and has code for {', '.join(known)}", "Use --gpus 0")
            else:
                yield good(evidence)


def in_use(found: Findings) -> Iterator[Verdict]:
    for one in found.host.gpus:
        named = f"GPU {one.index} ({one.uuid})"
        evidence = f"{named} has {gigabytes(one.free)} of {gigabytes(one.memory)} free"
        users = f", used by {', '.join(one.users)}" if one.users else ""
        if one.leased:
            users += f", leased by {one.leased}"
        if one.memory - one.free > USED * one.memory:
            yield warn(evidence + users, "Wait, or stop what uses it; `nvidia-smi` lists it")
        else:
            yield good(evidence + users)


def toolkit(found: Findings) -> Iterator[Verdict]:
    host_engine = found.host.engine
    if not found.host.gpus or not host_engine.reachable:
        return
    if host_engine.gpu_way == "none":
        yield fail(
            "the engine cannot pass a GPU to a container",
            "Install the NVIDIA Container Toolkit, then `sudo nvidia-ctk runtime configure "
            "--runtime=docker && sudo systemctl restart docker`; or use --engine process",
        )
    elif host_engine.gpu_way == "cdi":
        yield good(
            f"the engine passes GPUs through CDI: {', '.join(host_engine.cdi_devices) or 'any'}"
        )
    else:
        yield good("the engine passes GPUs through NVIDIA's runtime")


def _cuda(found: Findings) -> list[tuple[str, dict[str, Any]]]:
    return [
        (backend, facts["flavours"]["cuda"])
        for backend, facts in found.facts.items()
        if "cuda" in facts.get("flavours", {})
    ]


def _devices(found: Findings) -> bool:
    return any(name.removeprefix("nvidia").isdigit() for name in found.nodes)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


CHECKS: Checks = {
    "gpu": (gpu, HardwareError),
    "nouveau": (nouveau, HardwareError),
    "other-gpu": (other_vendor, HardwareError),
    "driver": (driver, HardwareError),
    "capability": (capability, HardwareError),
    "gpu-memory": (in_use, HardwareError),
    "nvidia-toolkit": (toolkit, HardwareError),
}
