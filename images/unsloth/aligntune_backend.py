"""The Unsloth backend: Unsloth's loader, adapters and patches over TRL's trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligntune.algorithms import Algorithm
from aligntune.errors import SpecError
from aligntune.spec import RunSpec

NAME = "unsloth"

UNLIMITED = 2**20
"""Tokens, for a model that states no limit of its own; Unsloth needs a number."""


def prepare() -> None:
    """Unsloth patches transformers and trl as they are imported, so it must come before them."""
    import unsloth  # noqa: F401


def load_model(
    spec: RunSpec, path: Path, dtype: Any, attention: str | None, max_length: int | None
) -> Any:
    """See :class:`aligntune.training.backend.Backend`."""
    import torch
    from unsloth import FastLanguageModel

    if spec.model.quantization == "8bit" and not torch.cuda.is_available():
        # Unsloth's CPU mode would load 16-bit weights without a word.
        raise SpecError("Unsloth has no 8-bit weights on a CPU", "Use model.quantization=4bit")
    quantized = spec.model.quantization != "none"
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(path),
        max_seq_length=max_length or UNLIMITED,
        dtype=dtype,
        load_in_4bit=spec.model.quantization == "4bit",
        load_in_8bit=spec.model.quantization == "8bit",
        load_in_16bit=not quantized and spec.adapter.type != "none",
        full_finetuning=spec.adapter.type == "none",
        use_gradient_checkpointing=False,  # the trainer's own switch decides
        use_exact_model_name=True,
        random_state=spec.training.seed,
        trust_remote_code=spec.model.trust_remote_code,
        local_files_only=True,
        **({"attn_implementation": attention} if attention else {}),
    )
    return model


def add_adapter(spec: RunSpec, model: Any) -> Any:
    """See :class:`aligntune.training.backend.Backend`."""
    from unsloth import FastLanguageModel

    return FastLanguageModel.get_peft_model(
        model,
        r=spec.adapter.rank,
        lora_alpha=spec.adapter.alpha,
        lora_dropout=spec.adapter.dropout,
        target_modules=spec.adapter.targets,
        use_rslora=spec.adapter.rslora,
        use_dora=spec.adapter.dora,
        use_gradient_checkpointing=False,
        random_state=spec.training.seed,
    )


def trainer(row: Algorithm) -> tuple[type[Any], type[Any]]:
    """See :class:`aligntune.training.backend.Backend`."""
    import trl

    return getattr(trl, row.trainer), getattr(trl, row.config)
