"""Model folders written by hand: true files of the format, of zeros, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "I64": 8, "U8": 1, "F8_E4M3": 1}

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> safetensors' dtype and shape."""

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def llama(config: Mapping[str, Any] = LLAMA, dtype: str = "BF16") -> dict[str, Any]:
    """The tensors of a llama of this configuration."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = config["num_key_value_heads"] * hidden // config["num_attention_heads"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        found |= {
            f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
        }
    return {name: (dtype, shape) for name, shape in found.items()}


def header(tensors: Tensors) -> bytes:
    """A file's beginning: the length of its header, and the header."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def write_safetensors(path: Path, tensors: Tensors | None = None) -> Path:
    """A safetensors file of zeros (of one, by default), which take no room on most disks."""
    tensors = {"a.weight": ("F32", (1, 1))} if tensors is None else tensors
    start = header(tensors)
    path.write_bytes(start)
    with path.open("r+b") as file:
        numbers = sum(prod(shape) * BYTES[dtype] for dtype, shape in tensors.values())
        file.truncate(len(start) + numbers)
    return path


def write_model(
    folder: Path, config: Mapping[str, Any] = LLAMA, tensors: Tensors | None = None, shards: int = 1
) -> Path:
    """A folder with ``config.json`` and weights, in one file or with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    held = llama() if tensors is None else tensors
    if shards == 1:
        write_safetensors(folder / "model.safetensors", held)
        return folder
    names = list(held)
    where: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: held[name] for name in names[number::shards]}
        write_safetensors(folder / file, part)
        where |= dict.fromkeys(part, file)
    size = sum(prod(shape) * BYTES[dtype] for dtype, shape in held.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
