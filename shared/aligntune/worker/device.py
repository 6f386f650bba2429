"""What a run computes on."""

from __future__ import annotations

from dataclasses import dataclass

from aligntune.errors import HardwareError, SpecError
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Device:
    """What the worker trains on: ``precision`` is bf16, fp16 or fp32, resolved."""

    cuda: bool
    precision: str

    @property
    def name(self) -> str:
        return "GPU" if self.cuda else "CPU"


def find_device(spec: RunSpec, run: RunDir) -> Device:
    """The GPU if there is one, and the precision: ``auto`` is the best the device computes in.

    Raises:
        HardwareError: a GPU was planned and is not here; it never becomes a silent crawl.
        SpecError: the device cannot compute in the precision that was asked for.
    """
    import torch

    cuda = torch.cuda.is_available() and spec.gpus != "0"
    planned = run.record().choice.gpus or spec.gpus
    if not cuda and planned not in ("auto", "0"):
        raise HardwareError(
            "a GPU was planned, and torch sees none here",
            "Check the driver with nvidia-smi; --gpus 0 trains on the CPU",
        )
    asked = spec.training.precision
    if cuda:
        bf16 = torch.cuda.get_device_capability() >= (8, 0)
        automatic = "bf16" if bf16 else "fp16"
    else:
        bf16 = True  # a CPU computes in it, if need be slowly
        automatic = "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    if asked == "bf16" and not bf16:
        raise SpecError("this GPU does not compute in bf16", "Use training.precision=fp16")
    if asked == "fp16" and not cuda:
        raise SpecError("fp16 is not for a CPU", "Use training.precision=bf16 or fp32")
    return Device(cuda, automatic if asked == "auto" else asked)
