"""The device and precision of a run."""

from __future__ import annotations

from dataclasses import dataclass

from aligntune.errors import HardwareError, SpecError
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Device:
    """The device that the worker trains on; ``precision`` is bf16, fp16 or fp32."""

    cuda: bool
    precision: str

    @property
    def name(self) -> str:
        return "GPU" if self.cuda else "CPU"


def find_device(spec: RunSpec, run: RunDir) -> Device:
    """The GPU if there is one, else the CPU, and the precision; ``auto`` selects the best.

    Raises:
        HardwareError: a GPU was planned but is missing; training never falls back to the CPU.
        SpecError: the device does not support the requested precision.
    """
    import torch

    cuda = torch.cuda.is_available() and spec.gpus != "0"
    planned = run.record().choice.gpus or spec.gpus
    if not cuda and planned not in ("auto", "0"):
        raise HardwareError(
            "a GPU was planned, but torch finds none",
            "Check the driver with nvidia-smi, or train on the CPU with --gpus 0",
        )
    asked = spec.training.precision
    if cuda:
        bf16 = torch.cuda.get_device_capability() >= (8, 0)
        automatic = "bf16" if bf16 else "fp16"
    else:
        bf16 = True  # every CPU supports it, some slowly
        automatic = "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    if asked == "bf16" and not bf16:
        raise SpecError("this GPU does not support bf16", "Set training.precision=fp16")
    if asked == "fp16" and not cuda:
        raise SpecError("a CPU does not support fp16", "Set training.precision=bf16 or fp32")
    return Device(cuda, automatic if asked == "auto" else asked)
