"""Facts from a model's files, read without torch: in a folder, the hub's cache, or on the hub."""

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
from aligntune_run.models.matching import require_match
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
    """Facts from a model's files; None for what is unknown, or if the files are not here.

    Attributes:
        model_type: as in ``config.json``.
        vision: whether it also takes images.
        parameters: the number of weights in its files; tied weights count once.
        dtype: the dtype of most weights, in torch's names (``bfloat16``).
        context: the maximum number of tokens it takes.
        shape: None for a model that is not a plain decoder.
        linear: by module name (``q_proj``), the sum of inputs and outputs of its linear layers,
            without the embedding and output matrix; this gives an adapter's size.
        quantized: the method by which the weights are already quantized, such as ``gptq``.
        custom_code: whether its repository has custom code (``auto_map``).
        gated: whether the hub requires access to be granted.
        granted: whether the caller's token has access; None if this was not checked.
        note: why something is unknown, as text.
        refused: the error that fetching it would end with, if that is certain.
        text_type: the model type of the text part of a vision model, if it is named.
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
    text_type: str | None = None


def read_model(name: str) -> ModelFacts:
    """The facts of a local model folder; empty for a hub id.

    Raises:
        ModelError: the folder is not a model, has no weights, or they are incomplete.
    """
    if not is_local(name):
        return ModelFacts()
    folder = Path(name)
    if not os.path.isdir(folder):
        raise ModelError(
            f"{folder} is a file, not a model folder",
            f"Use the folder that it is in: {folder.parent}",
        )
    if os.path.exists(folder / "adapter_config.json"):
        raise ModelError(
            f"{folder} is an adapter, not a model",
            "Use --model for its base model, and --set adapter.path=... for the adapter",
        )
    return read_folder(folder)


def read_folder(folder: Path) -> ModelFacts:
    """The facts of a folder with ``config.json`` and weights.

    Raises:
        ModelError: one of them is missing or broken, or they do not match.
    """
    try:
        config = read_object(folder / "config.json", CONFIG_BYTES)
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is not a model folder: it has no config.json",
            "Use a folder that save_pretrained wrote, a finished run or a hub id",
        ) from None
    known = of_config(config)
    if known.model_type is None:
        raise ModelError(
            f"{folder / 'config.json'} has no model_type",
            "Save the model again with transformers (save_pretrained)",
        )
    files = find_weights(folder)
    if files[0].suffix == ".safetensors":
        tensors = read_headers(files)
        if not known.quantized and not known.custom_code:
            require_match(str(folder), config, known.shape, tensors)
        return of_tensors(config, tensors)
    size = sum(file_size(path) for path in files)
    bits = BITS.get(known.dtype or "float32")
    if bits is None or known.quantized:
        return with_room(known, size * NUMBERS_PER_BYTE)
    # The dtype in config.json can be wrong; at eight bits, the number of weights is largest.
    known = with_room(known, size)
    return replace(known, parameters=size * 8 // bits, dtype=known.dtype or "float32")


def of_config(config: Mapping[str, Any], tied: bool | None = None) -> ModelFacts:
    """The facts of ``config.json`` alone; ``tied`` is what the weights say about that."""
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
    dtypes = (part.get(name) for part in (text, config) for name in ("dtype", "torch_dtype"))
    vision, text_type = config.get("vision_config") is not None, text.get("model_type")
    return ModelFacts(
        model_type=shown(kind) if isinstance(kind, str) and kind.strip() else None,
        vision=vision,
        text_type=shown(text_type) if vision and isinstance(text_type, str) else None,
        dtype=next((dtype for dtype in dtypes if isinstance(dtype, str) and dtype in BITS), None),
        context=context,
        shape=shape,
        quantized=None if quantization is None else method,
        custom_code=bool(config.get("auto_map")),
        note="; ".join(notes),
    )


def with_room(known: ModelFacts, numbers: int) -> ModelFacts:
    """Remove the shape if the weights, at most ``numbers`` in total, are too few for it.

    The check assumes a quarter of the usual matrices per layer, because architectures differ, and
    in some only every second layer has a kind of matrix.
    """
    shape = known.shape
    if shape is None:
        return known
    attention = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    layer = shape.hidden * (attention + shape.intermediate * shape.experts_per_token) // 4
    if shape.vocabulary * shape.hidden + shape.layers * layer <= numbers:
        return known
    note = "config.json and the weights disagree: the weights are too small"
    return replace(known, shape=None, note="; ".join(filter(None, (known.note, note))))


def of_tensors(config: Mapping[str, Any], tensors: list[Tensor]) -> ModelFacts:
    """The facts of ``config.json`` and the headers of the weights together."""
    tied = is_tied(config, not has_output(tensor.name for tensor in tensors))
    known = of_config(config, tied)
    # If quantized, one number in a file can hold 32 of the model's.
    numbers = sum(prod(tensor.shape) for tensor in tensors)
    known = with_room(known, numbers * 32 if known.quantized else numbers)
    own = only_weights(tensors, tied)
    linear = linear_sums(own)
    if known.quantized and known.shape:
        linear = linear_sums_by_name((tensor.name for tensor in own), known.shape)
    count = parameters(own, known.shape, known.quantized is not None)
    notes = [known.note] if known.note else []
    if count is None:
        notes.append(f"the number of parameters packed by {known.quantized} is unknown")
    return replace(
        known, parameters=count or None, dtype=main_dtype(own), linear=linear, note="; ".join(notes)
    )
