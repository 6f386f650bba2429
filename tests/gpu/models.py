"""Models of about a billion random weights, as memory and speed are measured on, and tiny ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.gpu.bench import INSIDE, Bench

LLAMA: dict[str, Any] = {  # as Llama-3.2-1B
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
QWEN3: dict[str, Any] = {  # as Qwen3-1.7B, with half of its layers
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 14,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
SMALL = {
    "vocab_size": 8192,
    "hidden_size": 320,
    "intermediate_size": 896,
    "num_hidden_layers": 8,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}
"""Of a rehearsal: 16 million weights, as in benchmarks/memory.py."""

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran", "in", "park"]


def shapes(rehearsing: bool) -> dict[str, dict[str, Any]]:
    """Configurations by name."""
    full = {"llama": LLAMA, "qwen3": QWEN3}
    if rehearsing:
        return {"llama": {**LLAMA, **SMALL, "tie_word_embeddings": False}}
    return full


def make_models(bench: Bench) -> dict[str, Path]:
    """The models' folders by name; they are made on the first call."""
    folder = bench.work / "models"
    wanted = shapes(bench.rehearsing)
    missing = {name: shape for name, shape in wanted.items() if not (folder / name).exists()}
    if missing:
        words = [INSIDE / "make_models.py", folder, json.dumps(missing)]
        bench.stacks["trl"].run(words, bench.log("make-models"), 120)
    return {name: folder / name for name in wanted}


def parameters(shape: dict[str, Any]) -> tuple[int, int]:
    """Weights that are multiplied with, in the layers, and in the output matrix."""
    hidden, width = shape["hidden_size"], shape["head_dim"]
    attention = 2 * hidden * width * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    block = 3 * hidden * shape["intermediate_size"]
    return shape["num_hidden_layers"] * (attention + block), shape["vocab_size"] * hidden


def long_rows(bench: Bench, kind: str, length: int, count: int = 64) -> Path:
    """Rows of more than ``length`` tokens, to be cut to it: ``text``, ``pairs`` or ``prompts``.

    Prompts are somewhat shorter than ``length``, as too long ones are left out.
    """
    chance = random.Random(0)

    def text(words: int) -> str:
        return " " + " ".join(chance.choices(WORDS, k=words))

    def row() -> dict[str, str]:
        if kind == "prompts":
            return {"prompt": text(length * 3 // 4)}
        if kind == "text":
            return {"text": text(2 * length)}
        return {"prompt": text(20), "chosen": text(2 * length), "rejected": text(2 * length)}

    return bench.write(f"{kind}-{length}.jsonl", [row() for _ in range(count)])
