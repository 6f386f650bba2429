"""The Unsloth backend: Unsloth's loader, adapters and patches over TRL's trainers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligntune.algorithms import Head
from aligntune.errors import SpecError
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.trainer_args import checkpoints_gradients
from aligntune.worker.backend import ModelForm, lora_arguments

NAME = "unsloth"

UNLIMITED = 2**20
"""Tokens, for a model without a limit; Unsloth needs a number."""


def prepare() -> None:
    """Unsloth patches transformers and trl during their import, so import it first."""
    # Otherwise offloading rounds float32 states to bfloat16, and the backward pass recomputes a
    # layer from a different input than the forward pass.
    os.environ.setdefault("UNSLOTH_OFFLOAD_FP32", "exact")
    import unsloth  # noqa: F401


def model_arguments() -> Collection[str]:
    """Arguments of Unsloth's loader that have no key in the spec."""
    return (
        *("fast_inference", "float32_mixed_precision", "float8_kv_cache", "load_in_fp8"),
        *("gpu_memory_utilization", "max_lora_rank", "offload_embedding", "qat_scheme"),
        *("rope_scaling", "unsloth_tiled_mlp", "use_gradient_checkpointing"),
    )


def load_model(spec: RunSpec, path: Path, form: ModelForm) -> Any:
    """See :class:`aligntune.worker.backend.Backend`."""
    import torch
    from unsloth import FastLanguageModel

    from aligntune.worker.modeling.text_part import has_vision

    if spec.model.quantization == "8bit" and not torch.cuda.is_available():
        # Unsloth's CPU mode would silently load 16-bit weights.
        raise SpecError(
            "Unsloth does not support 8-bit weights on a CPU", "Set model.quantization=4bit"
        )
    if has_vision(form.config):
        raise SpecError(
            f"the Unsloth backend does not train the text part of {form.config.model_type}, which "
            "also has a vision part",
            "Use --backend trl",
        )
    if form.head != "causal":
        raise SpecError(
            "the Unsloth backend trains only causal language models", "Use --backend trl"
        )
    own = {name: value for name, value in spec.unsloth.items() if name in model_arguments()}
    quantized = spec.model.quantization != "none"
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(path),
        max_seq_length=form.max_length or UNLIMITED,
        dtype=form.dtype,
        load_in_4bit=spec.model.quantization == "4bit",
        load_in_8bit=spec.model.quantization == "8bit",
        load_in_16bit=not quantized and spec.adapter.type != "none",
        full_finetuning=spec.adapter.type == "none",
        use_exact_model_name=True,
        random_state=spec.training.seed,
        trust_remote_code=spec.model.trust_remote_code,
        local_files_only=True,
        **({"attn_implementation": form.attention} if form.attention else {}),
        **{**own, "use_gradient_checkpointing": checkpointing(spec, torch.cuda.is_available())},
    )
    return model


def checkpointing(spec: RunSpec, cuda: bool) -> bool | str:
    """The checkpointing mode for loading; ``unsloth`` moves checkpoints to main memory.

    On a GPU Unsloth restores this value after every rollout, so it must match training. On a CPU
    the trainer's argument decides.
    """
    own: bool | str | None = spec.unsloth.get("use_gradient_checkpointing")
    if own is not None:
        return own
    return "unsloth" if cuda and checkpoints_gradients(spec, cuda) else False


def trainer_arguments(spec: RunSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """See :class:`aligntune.worker.backend.Backend`.

    If ``padding_free`` is unset, Unsloth's SFT trainer flattens a batch into one row without
    padding. Rows do not see each other: position ids restart at each row, and attention uses their
    lengths (``packed_seq_lengths``). The first label of each row is masked. A padded batch does not
    predict it either, so the same tokens are learned. Only trainers that pack rows can flatten
    them.
    """
    taken = dict(arguments)
    packs = "training.packing" in spec.row.keys
    if packs and "padding_free" not in spec.trainer_args:
        del taken["padding_free"]
    own = spec.unsloth.get("use_gradient_checkpointing")
    return taken if own is None else taken | {"gradient_checkpointing": bool(own)}


def add_adapter(spec: RunSpec, model: Any, head: Head) -> Any:
    """See :class:`aligntune.worker.backend.Backend`."""
    import torch
    from unsloth import FastLanguageModel

    return FastLanguageModel.get_peft_model(
        model,
        **lora_arguments(spec),
        use_gradient_checkpointing=checkpointing(spec, torch.cuda.is_available()),
        random_state=spec.training.seed,
    )


def computes_loss() -> bool:
    """On a GPU, head and loss are one kernel; on a CPU, models are those of transformers."""
    import torch

    return bool(torch.cuda.is_available())


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """See :class:`aligntune.worker.backend.Backend`."""
    import torch

    from aligntune.worker.modeling.modes import quiet

    # Unsloth's kernels for generation need a GPU.
    with fast_inference(model) if torch.cuda.is_available() else quiet(model):
        yield


@contextmanager
def fast_inference(model: Any) -> Iterator[None]:
    """Unsloth's kernels for generation, which turn checkpointing off."""
    import torch
    from unsloth import FastLanguageModel

    was_training = model.training
    flags = (getattr(module, "gradient_checkpointing", False) for module in model.modules())
    checkpointed = next(filter(None, flags), False)
    FastLanguageModel.for_inference(model)
    try:
        with torch.no_grad():
            yield
    finally:
        # Also if the model was not in training mode yet, as in a first rollout: nothing else
        # switches checkpointing on again.
        FastLanguageModel.for_training(model, use_gradient_checkpointing=checkpointed)
        model.train(was_training)
