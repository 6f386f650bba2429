"""The sizes of a decoder from ``config.json``, whatever names an architecture uses."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.errors import ModelError, shown

CONFIG_BYTES = 2**20
"""More than any config.json has; a longer file is not a config."""

LARGEST = 2**31
"""More than any width, depth or vocabulary."""

NAMES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim",),
    "intermediate": ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
    "experts_per_token": ("num_experts_per_tok",),
    "context": (
        *("max_position_embeddings", "n_positions"),
        *("max_seq_len", "model_max_length", "context_length"),
    ),
}
"""What transformers' configuration classes call each number."""

TIED = frozenset(
    (
        *("bloom", "cohere", "cohere2", "ernie4_5", "falcon", "falcon_mamba", "gemma", "gemma2"),
        *("gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gpt2"),
        *("gpt-sw3", "gpt_bigcode", "gpt_neo", "lfm2", "lfm2_moe", "mamba", "minicpm3", "mpt"),
        *("openai-gpt", "opt", "recurrent_gemma", "smollm3", "starcoder2", "vaultgemma", "xglm"),
        *("zamba", "zamba2"),
    )
)
"""Model types whose embedding is also the output matrix, unless ``config.json`` says otherwise."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that determine its memory, as in ``config.json``.

    Attributes:
        hidden: width of the residual stream.
        layers: decoder layers.
        heads: attention heads; ``kv_heads`` are those of keys and values, each ``head_dim`` wide.
        intermediate: inner width of a feed-forward block, or of one expert; a token uses
            ``experts_per_token`` experts.
        vocabulary: rows of the embedding.
        tied: whether the output matrix is the embedding itself.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    experts_per_token: int = 1


class UnknownShapeError(Exception):
    """Says why ``config.json`` does not give the shape of a decoder."""


def read_object(path: Path, limit: int, values: int | None = None) -> dict[str, Any]:
    """Read a small JSON object from an untrusted file.

    Args:
        path: the file.
        limit: the maximum size in bytes.
        values: the maximum number of JSON values, if ``limit`` alone would allow too many.

    Raises:
        FileNotFoundError: the file does not exist.
        ModelError: it is not a regular file, is too long, or is not a JSON object.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"cannot read {path}: it is not a file", "Save or download it again")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror or error}",
            "Fix its permissions, or use another copy",
        ) from error
    return parse_object(content, limit, str(path), values)


def parse_object(
    content: bytes, limit: int, name: str, values: int | None = None
) -> dict[str, Any]:
    """Like :func:`read_object`, for bytes in memory; ``name`` is for the message."""
    if len(content) > limit:
        raise ModelError(
            f"cannot read {name}: it is longer than {limit >> 20} MiB", "Save or download it again"
        )
    # Every value except the first of a list or object follows a comma.
    if values is not None and sum(map(content.count, (b",", b"[", b"{"))) > values:
        raise ModelError(
            f"cannot read {name}: it has more than {values:,} values", "Save or download it again"
        )
    try:
        value = json.loads(content.decode())
    except RecursionError:
        raise ModelError(
            f"cannot read {name}: it is nested too deeply", "Save or download it again"
        ) from None
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise ModelError(f"cannot read {name}: {error}", "Save or download it again") from None
    if not isinstance(value, dict):
        raise ModelError(
            f"cannot read {name}: it is not a JSON object", "Save or download it again"
        )
    return value


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a configuration."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def number(config: Mapping[str, Any], what: str) -> int | None:
    """One of :data:`NAMES`, the largest if each layer has its own; None if it is missing.

    Raises:
        UnknownShapeError: the value cannot be such a number.
    """
    for name in NAMES[what]:
        value = config.get(name)
        if value is None:
            continue
        values = value if isinstance(value, list) and value else [value]
        for one in values:
            if not isinstance(one, int) or isinstance(one, bool) or not 0 < one < LARGEST:
                raise UnknownShapeError(f"config.json: {name} is {shown(repr(one), 40)}")
        return int(max(values))
    return None


def shape_of(config: Mapping[str, Any], tied: bool | None = None) -> Shape:
    """The shape of a decoder.

    Args:
        config: ``config.json``.
        tied: what the weights say, if known; ``config.json`` takes precedence.

    Raises:
        UnknownShapeError: it is not a plain decoder, or a number is missing or impossible.
    """
    text = text_part(config)
    if config.get("is_encoder_decoder") is True:
        raise UnknownShapeError("it is not a plain decoder")

    def needed(what: str) -> int:
        value = number(text, what)
        if value is None:
            raise UnknownShapeError(f"config.json has no {NAMES[what][0]}")
        return value

    hidden, heads = needed("hidden"), needed("heads")
    alone = text.get("multi_query") is True and text.get("new_decoder_architecture") is not True
    kv_heads = 1 if alone else number(text, "kv_heads") or heads
    return Shape(
        hidden=hidden,
        layers=needed("layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=number(text, "head_dim") or max(1, hidden // heads),
        intermediate=number(text, "intermediate") or 4 * hidden,
        vocabulary=needed("vocabulary"),
        tied=is_tied(config, tied),
        experts_per_token=number(text, "experts_per_token") or 1,
    )


def is_tied(config: Mapping[str, Any], found: bool | None) -> bool:
    """Whether the output matrix is the embedding: by config, by weights, or by model type."""
    for part in (text_part(config), config):
        if isinstance(tied := part.get("tie_word_embeddings"), bool):
            return tied
    return found if found is not None else str(config.get("model_type")) in TIED


def widths(module: str, shape: Shape) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer by its module's name; None for an unknown name."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    known = {
        "q_proj": (shape.hidden, queries),
        "k_proj": (shape.hidden, keys),
        "v_proj": (shape.hidden, keys),
        "o_proj": (queries, shape.hidden),
        "qkv_proj": (shape.hidden, queries + 2 * keys),
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
        "gate_up_proj": (shape.hidden, 2 * shape.intermediate),
    }
    return known.get(module)
