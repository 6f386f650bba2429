"""Checks of the GPUs: present, visible and free. Rules say if they are supported."""

from __future__ import annotations

from collections.abc import Iterator

from aligntune.errors import HardwareError
from aligntune_run.check import Result, fails, passes, warns
from aligntune_run.doctor.checks.base import MACHINE, gigabytes
from aligntune_run.doctor.probe import Findings

USED = 0.1
"""A GPU with more than this fraction of its memory in use gets a warning."""


@MACHINE.check("gpus", HardwareError)
def gpu(found: Findings) -> Iterator[Result]:
    host = found.host
    hidden = "CUDA_VISIBLE_DEVICES" in found.environment
    for one in host.gpus:
        slice_of = f" (a slice of GPU {one.index})" if one.parent else ""
        yield passes(f"{one.index}: {one.name}{slice_of}, {gigabytes(one.memory)}, {one.uuid}")
    if host.gpus:
        if host.gpu_note:
            yield warns(host.gpu_note, "See `nvidia-smi`")
        return
    if host.driver and hidden:
        yield warns(f"no GPU is used: {host.gpu_note}", "`unset CUDA_VISIBLE_DEVICES`")
    elif found.driver_loaded and not _devices(found):
        yield fails(
            "NVIDIA's driver is loaded, but there are no device files /dev/nvidia*",
            "`sudo nvidia-modprobe -u -c=0`; in a container, pass the GPU to it",
        )
    elif found.driver_loaded or host.gpu_failed:
        yield fails(
            f"NVIDIA's driver is installed, but no GPU can be used: {host.gpu_note}",
            "See `nvidia-smi`; after a driver update, restart the machine",
        )
    elif "NVIDIA" in found.displays and "nouveau" not in found.modules:
        yield fails(
            f"there is an NVIDIA GPU but no driver for it: {host.gpu_note}",
            "Install it, on Debian `sudo apt install nvidia-driver`, on Ubuntu "
            "`sudo ubuntu-drivers install`, and restart",
        )
    elif "NVIDIA" not in found.displays and not host.other_gpu:
        yield warns(
            f"none: {host.gpu_note}; training uses the CPU",
            "Nothing to fix. If the machine has a GPU, check `lspci | grep -i nvidia`",
        )


@MACHINE.check("nouveau", HardwareError)
def nouveau(found: Findings) -> Iterator[Result]:
    if "nouveau" in found.modules and "NVIDIA" in found.displays:
        yield fails(
            "the NVIDIA GPU uses the nouveau driver, which does not support CUDA",
            "Install NVIDIA's driver, `echo blacklist nouveau | sudo tee "
            "/etc/modprobe.d/no-nouveau.conf && sudo update-initramfs -u`, and restart",
        )


@MACHINE.check("gpu-memory", HardwareError)
def in_use(found: Findings) -> Iterator[Result]:
    for one in found.host.gpus:
        named = f"GPU {one.index} ({one.uuid})"
        evidence = f"{named} has {gigabytes(one.free)} of {gigabytes(one.memory)} free"
        users = f", used by {', '.join(one.users)}" if one.users else ""
        if one.leased:
            users += f", leased by {one.leased}"
        if one.memory - one.free > USED * one.memory:
            yield warns(evidence + users, "Wait, or stop what uses it; `nvidia-smi` lists it")
        else:
            yield passes(evidence + users)


def _devices(found: Findings) -> bool:
    return any(name.removeprefix("nvidia").isdigit() for name in found.nodes)
