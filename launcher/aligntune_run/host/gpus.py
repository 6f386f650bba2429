"""NVIDIA GPUs, as the driver reports them. A failure is a note, never an exception."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from aligntune_run.host.nvidia_smi import ask_nvidia_smi
from aligntune_run.host.nvml import ask_nvml
from aligntune_run.host.types import Gpu, Gpus, joined


def probe_gpus(environment: Mapping[str, str] = os.environ) -> Gpus:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, through NVML, else through ``nvidia-smi``."""
    seen = ask_nvml()
    if not seen.source:
        second = ask_nvidia_smi(environment.get("PATH", os.defpath))
        driver = second.driver or seen.driver
        seen = replace(
            second,
            note=joined(seen.note, second.note),
            driver=driver,
            cuda=seen.cuda,
            failed=seen.failed and not second.found,
        )
    found, note = visible(seen.found, environment.get("CUDA_VISIBLE_DEVICES"))
    return replace(seen, found=found, note=joined(seen.note, note))


def visible(gpus: tuple[Gpu, ...], wanted: str | None) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order, and why not all that it names.

    It is read as CUDA reads it: numbers, or UUIDs as far as they are unique, up to the first entry
    that is neither; a GPU named twice hides them all. A number is that of ``nvidia-smi``, which is
    CUDA's own only where the GPUs are alike or ``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID``: no driver
    call tells what CUDA takes for the fastest. Workers are handed UUIDs, so that only what the
    user typed is read so. The number of a GPU with MIG on is its first slice.
    """
    if wanted is None or not gpus:
        return gpus, ""
    kept: list[Gpu] = []
    note = ""
    entries = [entry.strip() for entry in wanted.split(",")]
    uuids = entries[0].startswith(("GPU-", "MIG-"))
    for entry in entries:
        gpu = _by_uuid(gpus, entry) if uuids else _by_number(gpus, entry)
        if gpu is None:
            note = f"CUDA_VISIBLE_DEVICES is read up to {entry!r}, which is no GPU here"
            break
        if gpu in kept:
            return (), "CUDA_VISIBLE_DEVICES names a GPU twice, which hides every GPU"
        kept.append(gpu)
    return tuple(kept), note if kept else "CUDA_VISIBLE_DEVICES hides every GPU"


def _by_uuid(gpus: tuple[Gpu, ...], entry: str) -> Gpu | None:
    kind = entry[:4]
    found = [gpu for gpu in gpus if kind in ("GPU-", "MIG-") and gpu.uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


def _by_number(gpus: tuple[Gpu, ...], entry: str) -> Gpu | None:
    digits = re.match(r"\+?([0-9]{1,9})", entry)  # CUDA takes "1x" for 1
    return next((gpu for gpu in gpus if digits and gpu.index == int(digits[1])), None)
