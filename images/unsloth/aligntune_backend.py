"""The Unsloth backend: Unsloth's loader, adapters and patches over TRL's trainers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aligntune.errors import SpecError
from aligntune.spec.run_spec import RunSpec

NAME = "unsloth"

UNLIMITED = 2**20
"""Tokens, for a model that states no limit of its own; Unsloth needs a number."""


def prepare() -> None:
    """Unsloth patches transformers and trl as they are imported, so it must come before them."""
    import unsloth  # noqa: F401


def model_arguments() -> Collection[str]:
    """What Unsloth's loader takes that no key of the spec says."""
    return (
        *("fast_inference", "float32_mixed_precision", "float8_kv_cache", "load_in_fp8"),
        *("gpu_memory_utilization", "max_lora_rank", "offload_embedding", "qat_scheme"),
        *("rope_scaling", "unsloth_tiled_mlp", "use_gradient_checkpointing"),
    )


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
    from unsloth import FastLanguageModel

    if spec.model.quantization == "8bit" and not torch.cuda.is_available():
        # Unsloth's CPU mode would load 16-bit weights without a word.
        raise SpecError("Unsloth has no 8-bit weights on a CPU", "Use model.quantization=4bit")
    if head != "causal":
        raise SpecError("Unsloth trains causal language models here", "Use --backend trl")
    own = {name: value for name, value in spec.unsloth.items() if name in model_arguments()}
    if own.get("fast_inference") and find_spec("vllm") is None:
        raise SpecError(
            "unsloth.fast_inference needs vLLM, which this image does not have",
            "Leave it out, or run a derived image that has it (--image)",
        )
    quantized = spec.model.quantization != "none"
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(path),
        max_seq_length=max_length or UNLIMITED,
        dtype=dtype,
        load_in_4bit=spec.model.quantization == "4bit",
        load_in_8bit=spec.model.quantization == "8bit",
        load_in_16bit=not quantized and spec.adapter.type != "none",
        full_finetuning=spec.adapter.type == "none",
        use_exact_model_name=True,
        random_state=spec.training.seed,
        trust_remote_code=spec.model.trust_remote_code,
        local_files_only=True,
        **({"attn_implementation": attention} if attention else {}),
        # The trainer's own switch decides, unless Unsloth's way of it is asked for.
        **{"use_gradient_checkpointing": False, **own},
    )
    return model


def add_adapter(spec: RunSpec, model: Any, head: str) -> Any:
    """See :class:`aligntune.worker.backend.Backend`."""
    from unsloth import FastLanguageModel

    return FastLanguageModel.get_peft_model(
        model,
        r=spec.adapter.rank,
        lora_alpha=spec.adapter.alpha,
        lora_dropout=spec.adapter.dropout,
        target_modules=spec.adapter.targets,
        use_rslora=spec.adapter.rslora,
        use_dora=spec.adapter.dora,
        use_gradient_checkpointing=spec.unsloth.get("use_gradient_checkpointing", False),
        random_state=spec.training.seed,
    )


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """See :class:`aligntune.worker.backend.Backend`."""
    import torch
    from unsloth import FastLanguageModel

    from aligntune.worker.modeling.modes import quiet

    if not torch.cuda.is_available():  # its kernels for generation are for a GPU
        with quiet(model):
            yield
        return
    was_training = model.training
    FastLanguageModel.for_inference(model)
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            FastLanguageModel.for_training(model)
