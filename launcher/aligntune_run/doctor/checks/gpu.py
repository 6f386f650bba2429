"""Checks of the GPUs: there, seen, new enough, free, and passed to containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aligntune.errors import HardwareError
from aligntune_run.doctor.checks.base import Checks, fail, gigabytes, good, warn
from aligntune_run.doctor.probe import Findings
from aligntune_run.plan import Verdict
from aligntune_run.selection.rules import runs

USED = 0.1
"""A GPU with more of its memory in use than this is worth a word."""


def gpu(found: Findings) -> Iterator[Verdict]:
    host = found.host
    hidden = "CUDA_VISIBLE_DEVICES" in found.environment
    for one in host.gpus:
        whole = f" (a slice of GPU {one.index})" if one.parent else ""
        yield good(f"{one.index}: {one.name}{whole}, {gigabytes(one.memory)}, {one.uuid}")
    if host.gpus:
        if host.gpu_note:
            yield warn(host.gpu_note, "See `nvidia-smi`")
        return
    if host.driver and hidden:
        yield warn(f"none is used: {host.gpu_note}", "`unset CUDA_VISIBLE_DEVICES`")
    elif found.driver_loaded and not _devices(found):
        yield fail(
            "NVIDIA's driver is loaded, and there are no device files /dev/nvidia*",
            "`sudo nvidia-modprobe -u -c=0`; in a container, have it given the GPU",
        )
    elif found.driver_loaded or host.gpu_failed:
        yield fail(
            f"NVIDIA's driver is here, and no GPU can be used: {host.gpu_note}",
            "See `nvidia-smi`; after an update of the driver restart the machine",
        )
    elif "NVIDIA" in found.displays and "nouveau" not in found.modules:
        yield fail(
            f"there is an NVIDIA GPU and no driver for it: {host.gpu_note}",
            "Install it, on Debian `sudo apt install nvidia-driver`, on Ubuntu "
            "`sudo ubuntu-drivers install`, and restart",
        )
    elif "NVIDIA" not in found.displays and not host.other_gpu:
        yield warn(
            f"none: {host.gpu_note}; training is on the CPU",
            "Nothing to mend, unless there should be one: `lspci | grep -i nvidia`",
        )


def nouveau(found: Findings) -> Iterator[Verdict]:
    if "nouveau" in found.modules and "NVIDIA" in found.displays:
        yield fail(
            "nouveau drives the NVIDIA GPU, and knows no CUDA",
            "Install NVIDIA's driver, `echo blacklist nouveau | sudo tee "
            "/etc/modprobe.d/no-nouveau.conf && sudo update-initramfs -u`, and restart",
        )


def other_vendor(found: Findings) -> Iterator[Verdict]:
    vendor = found.host.other_gpu or ("AMD" if "AMD" in found.displays else None)
    if vendor and not found.host.gpus:
        yield warn(
            f"the machine's GPU is from {vendor}, which neither backend's image supports",
            "--gpus 0 trains on the CPU",
        )


def driver(found: Findings) -> Iterator[Verdict]:
    if not found.host.gpus or not found.host.driver:
        return
    for backend, facts in _cuda(found):
        least = str(facts["min_driver"])
        told = f"driver {found.host.driver}; CUDA {facts['cuda']} of {backend} needs {least}"
        if _numbers(found.host.driver) < _numbers(least):
            yield fail(told, f"Update the driver to {least} or newer, or use --gpus 0")
        else:
            yield good(told)


def capability(found: Findings) -> Iterator[Verdict]:
    for backend, facts in _cuda(found):
        for one in found.host.gpus:
            has = f"{one.capability[0]}.{one.capability[1]}"
            known = list(facts.get("arch_list") or ())
            least = str(facts["min_compute_capability"])
            named = f"GPU {one.index} ({one.uuid})"
            told = f"{named} has compute capability {has}; {backend} needs {least}"
            if one.capability < _numbers(least):
                yield fail(told, "Use a newer GPU, or --gpus 0")
            elif known and not any(runs(arch, one.capability) for arch in known):
                yield fail(f"{told} and has code for {', '.join(known)}", "Use --gpus 0")
            else:
                yield good(told)


def in_use(found: Findings) -> Iterator[Verdict]:
    for one in found.host.gpus:
        named = f"GPU {one.index} ({one.uuid})"
        told = f"{named} has {gigabytes(one.free)} of {gigabytes(one.memory)} free"
        users = f", used by {', '.join(one.users)}" if one.users else ""
        if one.leased:
            users += f", leased by {one.leased}"
        if one.memory - one.free > USED * one.memory:
            yield warn(told + users, "Wait, or end what uses it: `nvidia-smi` shows what does")
        else:
            yield good(told + users)


def toolkit(found: Findings) -> Iterator[Verdict]:
    told = found.host.engine
    if not found.host.gpus or not told.reachable:
        return
    if told.gpu_way == "none":
        yield fail(
            "the engine cannot pass a GPU to a container",
            "Install the NVIDIA Container Toolkit, then `sudo nvidia-ctk runtime configure "
            "--runtime=docker && sudo systemctl restart docker`; or use --engine process",
        )
    elif told.gpu_way == "cdi":
        yield good(f"the engine passes GPUs by CDI: {', '.join(told.cdi_devices) or 'any'}")
    else:
        yield good("the engine passes GPUs by NVIDIA's runtime")


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
