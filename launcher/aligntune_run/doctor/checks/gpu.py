"""Checks of the GPUs: present, visible and free. Rules say if they are supported."""

from __future__ import annotations

from collections.abc import Iterator

from aligntune.errors import HardwareError
from aligntune.units import gib
from aligntune_run.check import Result, fails, passes, warns
from aligntune_run.doctor.checks.base import MACHINE
from aligntune_run.doctor.probe import Findings

USED = 0.1
"""A GPU with more than this fraction of its memory in use gets a warning."""


@MACHINE.check("gpus", HardwareError)
def _gpu(findings: Findings) -> Iterator[Result]:
    host = findings.host
    hidden = "CUDA_VISIBLE_DEVICES" in findings.environment
    for gpu in host.gpus:
        slice_of = f" (a slice of GPU {gpu.index})" if gpu.parent else ""
        yield passes(f"{gpu.index}: {gpu.name}{slice_of}, {gib(gpu.memory)}, {gpu.uuid}")
    if host.gpus:
        if host.gpu_note:
            yield warns(host.gpu_note, "See `nvidia-smi`")
        return
    if host.driver and hidden:
        yield warns(f"no GPU is used: {host.gpu_note}", "`unset CUDA_VISIBLE_DEVICES`")
    elif findings.driver_loaded and not _devices(findings):
        yield fails(
            "NVIDIA's driver is loaded, but there are no device files /dev/nvidia*",
            "`sudo nvidia-modprobe -u -c=0`; in a container, pass the GPU to it",
        )
    elif findings.driver_loaded or host.gpu_failed:
        yield fails(
            f"NVIDIA's driver is installed, but no GPU can be used: {host.gpu_note}",
            "See `nvidia-smi`; after a driver update, restart the machine",
        )
    elif "NVIDIA" in findings.displays and "nouveau" not in findings.modules:
        yield fails(
            f"there is an NVIDIA GPU but no driver for it: {host.gpu_note}",
            "Install it, on Debian `sudo apt install nvidia-driver`, on Ubuntu "
            "`sudo ubuntu-drivers install`, and restart",
        )
    elif "NVIDIA" not in findings.displays and not host.other_gpu:
        yield warns(
            f"none: {host.gpu_note}; training uses the CPU",
            "Nothing to fix. If the machine has a GPU, check `lspci | grep -i nvidia`",
        )


@MACHINE.check("nouveau", HardwareError)
def _nouveau(findings: Findings) -> Iterator[Result]:
    if "nouveau" in findings.modules and "NVIDIA" in findings.displays:
        yield fails(
            "the NVIDIA GPU uses the nouveau driver, which does not support CUDA",
            "Install NVIDIA's driver, `echo blacklist nouveau | sudo tee "
            "/etc/modprobe.d/no-nouveau.conf && sudo update-initramfs -u`, and restart",
        )


@MACHINE.check("gpu-memory", HardwareError)
def _in_use(findings: Findings) -> Iterator[Result]:
    for gpu in findings.host.gpus:
        named = f"GPU {gpu.index} ({gpu.uuid})"
        evidence = f"{named} has {gib(gpu.free)} of {gib(gpu.memory)} free"
        users = f", used by {', '.join(gpu.users)}" if gpu.users else ""
        if gpu.leased:
            users += f", leased by {gpu.leased}"
        if gpu.memory - gpu.free > USED * gpu.memory:
            yield warns(evidence + users, "Wait, or stop what uses it; `nvidia-smi` lists it")
        else:
            yield passes(evidence + users)


def _devices(findings: Findings) -> bool:
    return any(name.removeprefix("nvidia").isdigit() for name in findings.nodes)
