"""The TRL backend: stock Transformers, PEFT and TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligntune.algorithms import Algorithm
from aligntune.spec import RunSpec

NAME = "trl"


def prepare() -> None:
    """Nothing needs to be imported first."""


def load_model(
    spec: RunSpec, path: Path, dtype: Any, attention: str | None, max_length: int | None
) -> Any:
    """See :class:`aligntune.training.backend.Backend`."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = {
        "none": None,
        "4bit": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
        "8bit": BitsAndBytesConfig(load_in_8bit=True),
    }[spec.model.quantization]
    return AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        attn_implementation=attention,
        quantization_config=quantization,
        device_map={"": 0 if torch.cuda.is_available() else "cpu"} if quantization else None,
        trust_remote_code=spec.model.trust_remote_code,
        local_files_only=True,
    )


def add_adapter(spec: RunSpec, model: Any) -> Any:
    """See :class:`aligntune.training.backend.Backend`."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=spec.adapter.rank,
            lora_alpha=spec.adapter.alpha,
            lora_dropout=spec.adapter.dropout,
            target_modules=spec.adapter.targets,
            use_rslora=spec.adapter.rslora,
            use_dora=spec.adapter.dora,
        ),
    )


def trainer(row: Algorithm) -> tuple[type[Any], type[Any]]:
    """See :class:`aligntune.training.backend.Backend`."""
    import trl

    return getattr(trl, row.trainer), getattr(trl, row.config)
