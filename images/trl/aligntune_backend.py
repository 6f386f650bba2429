"""The TRL backend: stock Transformers, PEFT and TRL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aligntune.algorithms import Head
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.backend import ModelForm, lora_arguments

NAME = "trl"


def prepare() -> None:
    """Nothing needs to be imported first."""


def model_arguments() -> Collection[str]:
    """Arguments of transformers' ``from_pretrained`` that have no key in the spec."""
    return ("experts_implementation", "use_kernels")


def load_model(spec: RunSpec, path: Path, form: ModelForm) -> Any:
    """See :class:`aligntune.worker.backend.Backend`."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        BitsAndBytesConfig,
    )

    from aligntune.worker.modeling.text_part import has_vision, load_text_part

    quantization = {
        "none": None,
        "4bit": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=form.dtype,
        ),
        "8bit": BitsAndBytesConfig(load_in_8bit=True),
    }[spec.model.quantization]
    classifier = form.head == "classifier"
    own = {name: value for name, value in spec.trl.items() if name in model_arguments()}
    kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    load = kind.from_pretrained
    if has_vision(form.config):
        load = partial(load_text_part, kind, form.config)
    return load(
        path,
        dtype=form.dtype,
        attn_implementation=form.attention,
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


def add_adapter(spec: RunSpec, model: Any, head: Head) -> Any:
    """See :class:`aligntune.worker.backend.Backend`."""
    from peft import LoraConfig, get_peft_model

    task = "SEQ_CLS" if head == "classifier" else "CAUSAL_LM"
    return get_peft_model(model, LoraConfig(task_type=task, **lora_arguments(spec)))


def computes_loss() -> bool:
    """transformers builds the logits of every token."""
    return False


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """See :class:`aligntune.worker.backend.Backend`."""
    from aligntune.worker.modeling.modes import quiet

    with quiet(model):
        yield
