"""Runs the worker through Unsloth's GPU half on a machine without a GPU, as far as that goes.

Unsloth's CPU mode is stock TRL behind Unsloth's API, so a green run of it says nothing about the
trainers that Unsloth rewrites for a GPU. This makes Unsloth take a stand-in for a GPU, patch TRL as
it would there, and train on the CPU: the rewritten trainers run for real, the kernels do not.
Never in a shipped image.

Run inside the unsloth image: ``python unsloth_gpu_path.py --spec FILE``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "UNSLOTH_ALLOW_CPU": "1",
    "UNSLOTH_COMPILE_DISABLE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TRITON_INTERPRET": "1",
}


class StandInGpu:
    """What Unsloth asks of ``torch.cuda.get_device_properties``."""

    name = "stand-in"
    major, minor = 8, 0
    total_memory = 80 * 2**30
    multi_processor_count = 108
    warp_size = 32


def take_gpu_path() -> None:
    """Patch TRL as Unsloth does where it finds a GPU."""
    import torch

    torch.cuda.get_device_properties = lambda *_: StandInGpu()
    import unsloth  # noqa: F401  - before everything it patches
    from unsloth import FastLanguageModel
    from unsloth.models.rl import PatchFastRL
    from unsloth.trainer import _patch_trl_trainer

    os.environ["UNSLOTH_ALLOW_CPU"] = "0"
    PatchFastRL(FastLanguageModel=FastLanguageModel)
    _patch_trl_trainer()


def load_on_cpu() -> None:
    """Have the backend load through the general path and onto the CPU, otherwise as on a GPU."""
    import aligntune_backend as backend
    from unsloth import FastModel

    from aligntune.worker.backend import lora_arguments

    def load_model(spec: Any, path: Path, form: Any) -> Any:
        model, _ = FastModel.from_pretrained(
            str(path),
            max_seq_length=form.max_length,
            dtype=form.dtype,
            load_in_4bit=False,
            full_finetuning=spec.adapter.type == "none",
            device_map={"": "cpu"},
            use_gradient_checkpointing=backend.checkpointing(spec, cuda=True),
            local_files_only=True,
        )
        return model

    def add_adapter(spec: Any, model: Any, head: str) -> Any:
        return FastModel.get_peft_model(
            model,
            **lora_arguments(spec),
            use_gradient_checkpointing=backend.checkpointing(spec, cuda=True),
        )

    backend.load_model, backend.add_adapter = load_model, add_adapter
    backend.inference = backend.fast_inference
    backend.computes_loss = lambda: True


def main() -> int:
    """Train what the spec says, having made sure that the trainer is Unsloth's own."""
    take_gpu_path()
    load_on_cpu()
    import trl

    for name in ("SFT", "DPO", "KTO", "GRPO", "RLOO"):
        trainer = getattr(trl, f"{name}Trainer")
        if "Unsloth" not in trainer.__name__:
            sys.exit(f"TRL was not patched: the trainer is {trainer}")
    from aligntune.worker.main import main as train

    return train(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
