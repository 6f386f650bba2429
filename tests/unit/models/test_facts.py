"""What is told of a model by its files, and what those of strangers cannot do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.checkpoints import LLAMA, llama, write_model, write_safetensors

from aligntune_run.models.config import shape_of
from aligntune_run.models.facts import ModelFacts, Shape, read_folder, read_model

SHAPE = Shape(64, 2, 4, 2, 16, 96, 300, tied=False)
COUNT = 2 * 300 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64)
LINEAR = (
    ("down_proj", 320),
    ("gate_proj", 320),
    ("k_proj", 192),
    ("o_proj", 256),
    ("q_proj", 256),
    ("up_proj", 320),
    ("v_proj", 192),
)
WHOLE = ModelFacts("llama", False, COUNT, "bfloat16", 128, SHAPE, LINEAR)

GPT2 = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 1,
    "n_head": 4,
    "n_positions": 32,
    "vocab_size": 50,
    "n_inner": None,
}
GPT2_TENSORS = {
    "wte.weight": ("F32", (50, 64)),
    "wpe.weight": ("F32", (32, 64)),
    "h.0.attn.bias": ("F32", (1, 1, 32, 32)),
    "h.0.attn.c_attn.weight": ("F32", (64, 192)),
    "h.0.attn.c_attn.bias": ("F32", (192,)),
    "h.0.mlp.c_fc.weight": ("F32", (64, 256)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def changed(**values: Any) -> dict[str, Any]:
    return LLAMA | values


def rewrite(folder: Path, **values: Any) -> ModelFacts:
    (folder / "config.json").write_text(json.dumps(changed(**values)), encoding="utf-8")
    return read_folder(folder)


# --- what is told


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_gives_every_fact(tmp_path: Path, shards: int) -> None:
    assert read_model(str(write_model(tmp_path / "model", shards=shards))) == WHOLE


def test_a_cache_of_symbolic_links_is_read_like_any_folder(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert read_model(str(linked)) == WHOLE


def test_a_matrix_that_is_embedding_and_output_counts_once(folder: Path) -> None:
    known = rewrite(folder, tie_word_embeddings=True)
    assert known.parameters == COUNT - 300 * 64
    assert known.shape == replace(SHAPE, tied=True)


@pytest.mark.parametrize("there", [True, False])
def test_without_a_config_value_the_files_decide_whether_it_is_tied(
    tmp_path: Path, there: bool
) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "tie_word_embeddings"}
    tensors = llama() if there else {k: v for k, v in llama().items() if k != "lm_head.weight"}
    known = read_folder(write_model(tmp_path / "model", config, tensors))
    assert known.shape == replace(SHAPE, tied=not there)
    assert known.parameters == (COUNT if there else COUNT - 300 * 64)


def test_a_gpt2_has_other_names_masks_that_are_no_weights_and_is_tied(tmp_path: Path) -> None:
    known = read_folder(write_model(tmp_path / "model", GPT2, GPT2_TENSORS))
    assert known.shape == Shape(64, 1, 4, 4, 16, 256, 50, tied=True)
    assert known.parameters == 50 * 64 + 32 * 64 + 64 * 192 + 192 + 64 * 256
    assert known.linear == (("c_attn", 256), ("c_fc", 320))
    assert (known.context, known.dtype) == (32, "float32")


def test_the_text_part_of_a_configuration_is_the_one_that_counts(tmp_path: Path) -> None:
    config = {"model_type": "gemma3", "vision_config": {}, "text_config": LLAMA, "hidden_size": 1}
    known = read_folder(write_model(tmp_path / "model", config))
    assert (known.model_type, known.vision, known.shape) == ("gemma3", True, SHAPE)
    assert known.context == 128


def test_experts_are_not_linear_layers_and_a_token_uses_some(tmp_path: Path) -> None:
    config = changed(
        model_type="qwen3_moe", moe_intermediate_size=32, num_experts=2, num_experts_per_tok=2
    )
    tensors = {
        "model.embed_tokens.weight": ("BF16", (300, 64)),
        "model.layers.0.self_attn.q_proj.weight": ("BF16", (64, 64)),
        "model.layers.0.mlp.gate.weight": ("BF16", (2, 64)),
        "model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", (32, 64)),
        "model.layers.0.mlp.experts.1.up_proj.weight": ("BF16", (32, 64)),
        "model.layers.1.mlp.experts.gate_up_proj": ("BF16", (2, 64, 64)),
    }
    known = read_folder(write_model(tmp_path / "model", config, tensors))
    assert known.linear == (("q_proj", 128),)
    assert known.parameters == 300 * 64 + 64 * 64 + 2 * 64 + 2 * 32 * 64 + 2 * 64 * 64
    assert known.shape is not None
    assert (known.shape.intermediate, known.shape.experts_per_token) == (32, 2)


def test_packed_weights_count_as_what_is_in_them(tmp_path: Path) -> None:
    packed: dict[str, Any] = {}
    for name, (dtype, shape) in llama(dtype="F16").items():
        if "_proj" in name:
            stem = name.removesuffix(".weight")
            packed[f"{stem}.qweight"] = ("I32", (shape[1] // 8, shape[0]))
            packed[f"{stem}.qzeros"] = ("I32", (1, shape[0] // 8))
            packed[f"{stem}.scales"] = ("F16", (1, shape[0]))
        else:
            packed[name] = (dtype, shape)
    config = changed(quantization_config={"quant_method": "gptq", "bits": 4})
    known = read_folder(write_model(tmp_path / "model", config, packed))
    assert (known.quantized, known.parameters, known.linear) == ("gptq", COUNT, LINEAR)


def test_packed_weights_of_unknown_modules_are_not_guessed_at(tmp_path: Path) -> None:
    config = changed(quantization_config={"quant_method": "awq"})
    tensors = {"h.0.strange.qweight": ("I32", (8, 8))}
    known = read_folder(write_model(tmp_path / "model", config, tensors))
    assert known.parameters is None
    assert "packed" in known.note


def test_weights_that_are_bin_files_count_by_their_size(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "pytorch_model.bin").write_bytes(b"\0" * 2 * COUNT)
    (folder / "training_args.bin").write_bytes(b"\0" * 500)
    assert read_folder(folder) == ModelFacts("llama", False, COUNT, "bfloat16", 128, SHAPE)


def test_custom_code_of_a_repository_is_reported(folder: Path) -> None:
    assert rewrite(folder, auto_map={"AutoModel": "modeling.Mine"}).custom_code


@pytest.mark.parametrize(
    ("config", "tied"),
    [({"model_type": "gemma2"}, True), ({"model_type": "llama"}, False)],
)
def test_a_type_has_its_own_default_of_being_tied(config: dict[str, Any], tied: bool) -> None:
    silent = {key: value for key, value in LLAMA.items() if key != "tie_word_embeddings"}
    assert shape_of(silent | config).tied is tied


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"hidden_size": "x"}, "hidden_size is 'x'"),
        ({"num_hidden_layers": 1e99}, "num_hidden_layers is 1e+99"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"intermediate_size": [64, "x"]}, "intermediate_size is 'x'"),
        ({"head_dim": 2**63}, "head_dim is 9223372036854775808"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"is_encoder_decoder": True}, "not a plain decoder"),
    ],
)
def test_impossible_numbers_leave_the_shape_unknown_with_a_note(
    folder: Path, values: dict[str, Any], note: str
) -> None:
    known = rewrite(folder, **values)
    assert known.shape is None
    assert note in known.note
    assert known.parameters == COUNT


@pytest.mark.parametrize(
    "values",
    [
        {"vocab_size": 2**30},
        {"hidden_size": 2**20},
        {"num_hidden_layers": 2**20},
        {"num_key_value_heads": 2**20},
        {"num_experts_per_tok": 2**20},
    ],
)
@pytest.mark.parametrize("quantized", [False, True])
def test_a_shape_too_large_for_the_weights_is_rejected(
    folder: Path, values: dict[str, Any], quantized: bool
) -> None:
    method = {"quantization_config": {"quant_method": "gptq"}} if quantized else {}
    known = rewrite(folder, model_type="phi3", **values, **method)
    assert known.shape is None
    assert "config.json and the weights disagree" in known.note
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert read_folder(folder).shape is None


def test_null_and_false_count_as_missing(folder: Path) -> None:
    assert not rewrite(folder, vision_config=None).vision
    empty: tuple[Any, ...] = (None, False, {})
    for nothing in empty:
        assert rewrite(folder, quantization_config=nothing).quantized is None
    for method in ("", " ", None, 7):
        known = rewrite(folder, quantization_config={"quant_method": method})
        assert known.quantized == "an unknown method"


def test_widths_that_differ_by_layer_are_the_greatest(folder: Path) -> None:
    shape = rewrite(folder, intermediate_size=[96, 128]).shape
    assert shape is not None
    assert shape.intermediate == 128


def test_a_shard_that_an_index_does_not_name_is_not_counted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    write_safetensors(folder / "consolidated.safetensors", llama())
    assert read_folder(folder) == WHOLE
