"""Tiny random models with a tokenizer of their own, made from scratch where transformers is.

Run inside an image (or its venv): ``python tiny.py FOLDER [ARCHITECTURE ...]``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2")
END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(texts: list[str], size: int = 512) -> Any:
    """A byte-level BPE tokenizer with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", END, "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token="<|pad|>", model_max_length=1024
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(
    folder: Path, architecture: str, tokenizer: Any, seed: int = 0, **shape: float
) -> None:
    """Save a random causal model of ``architecture`` and the tokenizer into ``folder``."""
    shape = {
        # Rounded up as most are: Qwen's tokenizer class adds a token of its own when it is loaded.
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        **shape,
    }
    if architecture == "gpt2":
        names = {
            "vocab_size": "vocab_size",
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
        }
        shape = {names[key]: value for key, value in shape.items() if key in names}
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    random_model(architecture, seed, **special, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_model(architecture: str, seed: int, **config: Any) -> Any:
    """A causal model of ``architecture`` with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **config))


def main() -> None:
    folder = Path(sys.argv[1])
    words = ["the cat sat on the mat", "a dog ran in the park", "what is two plus two", "four"]
    tokenizer = make_tokenizer([f"{word} {other}" for word in words for other in words])
    for architecture in sys.argv[2:] or ARCHITECTURES:
        make_model(folder / architecture, architecture, tokenizer)


if __name__ == "__main__":
    main()
