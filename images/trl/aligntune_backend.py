"""The TRL backend: stock Transformers, PEFT and TRL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligntune.spec.run_spec import RunSpec

NAME = "trl"


def prepare() -> None:
    """Nothing needs to be imported first."""


def model_arguments() -> Collection[str]:
    """Arguments of transformers' ``from_pretrained`` that have no key in the spec."""
    return ("experts_implementation", "use_kernels")


def load_model(
    spec: RunSpec,
    path: Path,
    dtype: Any,
    attention: str | None,
    max_length: int | None,
    head: str,
) -> Any:
    """See :class:`aligntune.worker.backend.Backend`."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        BitsAndBytesConfig,
    )

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
    classifier = head == "classifier"
    own = {name: value for name, value in spec.trl.items() if name in model_arguments()}
    kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    return kind.from_pretrained(
        path,
        dtype=dtype,
        attn_implementation=attention,
        quantization_config=quantization,
        device_map={"": 0 if torch.cuda.is_available() else "cpu"} if quantization else None,
        trust_remote_code=spec.model.trust_remote_code,
        local_files_only=True,
        **({"num_labels": 1} if classifier else {}),
        **own,
    )


def trainer_arguments(spec: RunSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """TRL takes all arguments unchanged."""
    return dict(arguments)


def add_adapter(spec: RunSpec, model: Any, head: str) -> Any:
    """See :class:`aligntune.worker.backend.Backend`."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            task_type="SEQ_CLS" if head == "classifier" else "CAUSAL_LM",
            r=spec.adapter.rank,
            lora_alpha=spec.adapter.lora_alpha,
            lora_dropout=spec.adapter.dropout,
            target_modules=spec.adapter.targets,
            modules_to_save=spec.adapter.modules_to_save or None,
            use_rslora=spec.adapter.rslora,
            use_dora=spec.adapter.dora,
        ),
    )


def computes_loss() -> bool:
    """transformers builds the logits of every token."""
    return False


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """See :class:`aligntune.worker.backend.Backend`."""
    from aligntune.worker.modeling.modes import quiet

    with quiet(model):
        yield
