"""Whether the weights in the files are those that ``config.json`` describes, from headers alone.

Only what is certain: names and sizes of plain decoders whose configuration states every size. The
worker checks every weight of every architecture when it loads the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from aligntune.errors import ModelError
from aligntune_run.models.config import Shape, text_part, widths
from aligntune_run.models.safetensors import EMBEDDING, OUTPUT, Tensor, has_output

PLAIN = frozenset(
    (
        *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo", "olmo2"),
        *("olmo3", "qwen2", "qwen3", "seed_oss", "smollm3"),
    )
)
"""Model types with the linear layers of Llama, an embedding and an output matrix."""

STATED = ("num_key_value_heads", "intermediate_size", "head_dim")
"""Sizes whose defaults differ between model types; they are checked if ``config.json`` has them."""

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.weight$")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CAUSAL = "ForCausalLM"
WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")
SHOWN = 3


def require_match(
    name: str, config: Mapping[str, Any], shape: Shape | None, tensors: Sequence[Tensor]
) -> None:
    """Refuse weights that cannot be those of ``config.json``.

    Args:
        name: the model, for the message.
        config: ``config.json`` of a model that is not quantized.
        shape: its sizes, None if they are unknown.
        tensors: of all files.

    Raises:
        ModelError: names of the weights are missing, wrapped or of another size.
    """
    found = {tensor.name: tensor.shape for tensor in tensors}
    wrapped = next((prefix for prefix in WRAPPERS if all(map(_begins(prefix), found))), None)
    if wrapped:
        raise ModelError(
            f"all names of the weights of {name} begin with '{wrapped}', as in {min(found)}",
            f"Remove '{wrapped}' from the names, or save the model without its wrapper",
        )
    if shape is None or config.get("model_type") not in PLAIN:
        return
    every = chain(_missing(found, shape), _of_another_size(found, shape, text_part(config)))
    # config.json is untrusted, and may claim a million layers.
    if problems := list(islice(every, SHOWN + 1)):
        more = ", ..." if len(problems) > SHOWN else ""
        raise ModelError(
            f"the weights of {name} do not match its config.json: "
            f"{', '.join(problems[:SHOWN])}{more}",
            "Use the config.json that the weights were saved with",
        )
    causal = any(str(kind).endswith(CAUSAL) for kind in config.get("architectures") or ())
    if causal and config.get("tie_word_embeddings") is False and not has_output(found):
        raise ModelError(
            f"the weights of {name} lack lm_head.weight, and its config.json says that it is not "
            "the embedding (tie_word_embeddings is false)",
            "Save the model with its head, or set tie_word_embeddings to true if it has none",
        )


def _begins(prefix: str) -> Any:
    return lambda name: name.startswith(prefix)


def _missing(found: Mapping[str, tuple[int, ...]], shape: Shape) -> Iterator[str]:
    there = {match.groups() for name in found if (match := LAYER.search(name))}
    if not any(EMBEDDING.search(name) for name in found):
        yield "the embedding is missing"
    for layer in range(shape.layers):
        for module in LINEAR:
            if (str(layer), module) not in there:
                yield f"{module} of layer {layer} is missing"


def _of_another_size(
    found: Mapping[str, tuple[int, ...]], shape: Shape, config: Mapping[str, Any]
) -> Iterator[str]:
    stated = all(isinstance(config.get(name), int) for name in STATED)
    for name, size in sorted(found.items()):
        expected: tuple[int, ...] | None = None
        if EMBEDDING.search(name) or OUTPUT.search(name):
            expected = (shape.vocabulary, shape.hidden)
        elif stated and (match := LAYER.search(name)) and (both := widths(match[2], shape)):
            expected = both[::-1]
        if expected and size != expected:
            yield f"{name} has the size {list(size)} instead of {list(expected)}"
