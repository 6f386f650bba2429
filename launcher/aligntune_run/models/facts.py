"""What a model's own files say, read without torch: in a folder, in the hub's cache, on the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, ModelError, shown
from aligntune.spec.run_spec import is_local
from aligntune_run.models.config import (
    CONFIG_BYTES,
    Shape,
    UnknownShapeError,
    is_tied,
    number,
    read_object,
    shape_of,
    text_part,
)
from aligntune_run.models.safetensors import (
    BITS,
    NUMBERS_PER_BYTE,
    Tensor,
    file_size,
    find_weights,
    has_output,
    linear_sums,
    linear_sums_by_name,
    main_dtype,
    only_weights,
    parameters,
    read_headers,
)

__all__ = ["ModelFacts", "Shape", "read_model"]


@dataclass(frozen=True)
class ModelFacts:
    """What a model's own files say; None for what they do not, or where they are not here.

    Attributes:
        model_type: as in ``config.json``.
        vision: whether it takes images too.
        parameters: numbers in its weights' files, tied ones once.
        dtype: of most of them, in torch's names (``bfloat16``).
        context: tokens it takes at most.
        shape: None for a model that is no plain decoder.
        linear: by module name (``q_proj``), the sum of inputs and outputs of its linear layers,
            embedding and output matrix left out: what an adapter's size follows from.
        quantized: the method that the weights are quantized by already, as ``gptq``.
        custom_code: whether its repository carries code of its own (``auto_map``).
        gated: whether the hub gives it only to those who were granted access.
        granted: whether the caller's token opens it; None where nobody asked.
        note: why something is not known, in words.
        refused: what fetching it would end with, where the hub leaves no doubt.
    """

    model_type: str | None = None
    vision: bool = False
    parameters: int | None = None
    dtype: str | None = None
    context: int | None = None
    shape: Shape | None = None
    linear: tuple[tuple[str, int], ...] = ()
    quantized: str | None = None
    custom_code: bool = False
    gated: bool = False
    granted: bool | None = None
    note: str = ""
    refused: AligntuneError | None = None


def read_model(name: str) -> ModelFacts:
    """The facts of a local model folder; empty ones for a hub id.

    Raises:
        ModelError: the folder is not a model, has no weights, or they are not whole.
    """
    if not is_local(name):
        return ModelFacts()
    folder = Path(name)
    if not os.path.isdir(folder):
        raise ModelError(f"{folder} is a file, not a model folder")
    if os.path.exists(folder / "adapter_config.json"):
        raise ModelError(
            f"{folder} is an adapter, not a model",
            "Name its base with --model, and the adapter with --set adapter.path=...",
        )
    return read_folder(folder)


def read_folder(folder: Path) -> ModelFacts:
    """The facts of a folder with ``config.json`` and weights.

    Raises:
        ModelError: it has not both, or one of them is broken.
    """
    try:
        config = read_object(folder / "config.json", CONFIG_BYTES)
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a model folder: it has no config.json") from None
    known = of_config(config)
    if known.model_type is None:
        raise ModelError(f"{folder / 'config.json'} names no model_type")
    files = find_weights(folder)
    if files[0].suffix == ".safetensors":
        return of_tensors(config, read_headers(files))
    size = sum(file_size(path) for path in files)
    bits = BITS.get(known.dtype or "float32")
    if bits is None or known.quantized:
        return with_room(known, size * NUMBERS_PER_BYTE)
    # What config.json says of their dtype need not be so: at eight bits there are the most.
    known = with_room(known, size)
    return replace(known, parameters=size * 8 // bits, dtype=known.dtype or "float32")


def of_config(config: Mapping[str, Any], tied: bool | None = None) -> ModelFacts:
    """What ``config.json`` alone says; ``tied`` is what the weights say of it."""
    kind, text = config.get("model_type"), text_part(config)
    shape, context, notes = None, None, []
    try:
        shape = shape_of(config, tied)
    except UnknownShapeError as problem:
        notes.append(str(problem))
    try:
        context = number(text, "context")
    except UnknownShapeError as problem:
        notes.append(str(problem))
    quantization = config.get("quantization_config") or None
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    method = shown(method) if isinstance(method, str) and method.strip() else "an unknown method"
    told = (part.get(name) for part in (text, config) for name in ("dtype", "torch_dtype"))
    return ModelFacts(
        model_type=shown(kind) if isinstance(kind, str) and kind.strip() else None,
        vision=config.get("vision_config") is not None,
        dtype=next((dtype for dtype in told if isinstance(dtype, str) and dtype in BITS), None),
        context=context,
        shape=shape,
        quantized=None if quantization is None else method,
        custom_code=bool(config.get("auto_map")),
        note="; ".join(notes),
    )


def with_room(known: ModelFacts, numbers: int) -> ModelFacts:
    """Without the shape, where weights of so many numbers at most cannot have it.

    What a layer has is told with room to spare: a quarter of its usual matrices, as architectures
    differ, and in some only every second layer has any of one kind.
    """
    shape = known.shape
    if shape is None:
        return known
    attention = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    layer = shape.hidden * (attention + shape.intermediate * shape.experts_per_token) // 4
    if shape.vocabulary * shape.hidden + shape.layers * layer <= numbers:
        return known
    note = "config.json and the weights disagree: these are too small for what it says"
    return replace(known, shape=None, note="; ".join(filter(None, (known.note, note))))


def of_tensors(config: Mapping[str, Any], tensors: list[Tensor]) -> ModelFacts:
    """What ``config.json`` and the headers of the weights say together."""
    tied = is_tied(config, not has_output(tensor.name for tensor in tensors))
    known = of_config(config, tied)
    # Quantized, a number of a file may be 32 of the model's.
    numbers = sum(prod(tensor.shape) for tensor in tensors)
    known = with_room(known, numbers * 32 if known.quantized else numbers)
    own = only_weights(tensors, tied)
    linear = linear_sums(own)
    if known.quantized and known.shape:
        linear = linear_sums_by_name((tensor.name for tensor in own), known.shape)
    count = parameters(own, known.shape, known.quantized is not None)
    notes = [known.note] if known.note else []
    if count is None:
        notes.append(f"how many parameters {known.quantized} has packed is not known")
    return replace(
        known, parameters=count or None, dtype=main_dtype(own), linear=linear, note="; ".join(notes)
    )
