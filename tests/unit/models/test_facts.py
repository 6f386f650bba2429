"""What is told of a model by its files, and what those of strangers cannot do."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.checkpoints import LLAMA, header, llama, write_model, write_safetensors

from aligntune.errors import ModelError
from aligntune_run.models import safetensors
from aligntune_run.models.config import CONFIG_BYTES, UnknownShapeError, parse_object, shape_of
from aligntune_run.models.facts import ModelFacts, Shape, read_folder, read_model
from aligntune_run.models.safetensors import HEADER_BYTES, header_length, parse_header, read_headers

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


def test_text_of_a_stranger_is_printable_and_short(tmp_path: Path) -> None:
    nasty = "\x1b[2J\n" + "x" * 1000
    config = changed(model_type=nasty, quantization_config={"quant_method": nasty})
    tensors = {"a.weight": ("BF16", (2, 2))}
    folder = write_model(tmp_path / "model", config, tensors)
    path = folder / "model.safetensors"
    known = read_folder(folder)
    for text in (known.model_type, known.quantized):
        assert text is not None
        assert text.startswith("\\x1b[2J\\nxxx")
        assert len(text) == 80
    path.write_bytes(entry(dtype=nasty))
    (tensor,) = read_headers([path])
    assert tensor.dtype.isprintable()
    assert len(tensor.dtype) == 80
    path.write_bytes(of_object({nasty: 1}))
    refused(folder, "its tensor '\\x1b[2J\\nxxx")


def test_widths_that_differ_by_layer_are_the_greatest(folder: Path) -> None:
    shape = rewrite(folder, intermediate_size=[96, 128]).shape
    assert shape is not None
    assert shape.intermediate == 128


# --- what is refused


def refused(folder: Path, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_model(str(folder))
    assert says in caught.value.what
    assert len(str(caught.value).splitlines()) == 1


def of(length: int, rest: bytes) -> bytes:
    return length.to_bytes(8, "little") + rest


def of_object(value: Any) -> bytes:
    text = json.dumps(value).encode()
    return of(len(text), text)


def offsets(*spans: tuple[int, int], size: int = 16) -> bytes:
    """A file of one tensor a span, of bytes."""
    tensors = {
        f"{number}.weight": {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for number, (begin, end) in enumerate(spans)
    }
    return of_object(tensors) + b"\0" * size


def entry(**values: Any) -> bytes:
    known = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    text = json.dumps({"a.weight": known | values}).encode()
    return of(len(text), text + b"\0" * 16)


BAD_HEADERS = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "a header of 2^63 bytes": of(2**63, b"{}"),
    "a header longer than the file": of(1000, b"{}"),
    "a header cut short": header(llama())[:-40],
    "no JSON": of(4, b"\x80abc"),
    "a list": of(2, b"[]"),
    "lists in lists": of(200_000, b"[" * 200_000),
    "objects in objects": of(100_000, b'{"a":' * 20_000),
    "a number of 5000 digits": of(5006, b'{"a":' + b"9" * 5000 + b"}"),
    "a tensor that is a number": of(7, b'{"a":1}'),
    "a negative shape": entry(shape=[-2, -2]),
    "a shape of words": entry(shape=["2", 2]),
    "a shape of truth": entry(shape=[True, True], data_offsets=[0, 4]),
    "a shape beyond 64 bits": entry(shape=[2**64]),
    "a shape whose product is": entry(shape=[2**62] * 60),
    "a product that no float holds": entry(dtype="F3", shape=[2**62] * 64),
    "more numbers than bytes of an unknown dtype hold": entry(dtype="F3", shape=[16, 17]),
    "tensors on the same bytes": offsets((0, 16), (0, 16)),
    "tensors that overlap": offsets((0, 10), (8, 16)),
    "a hole between tensors": offsets((0, 8), (9, 16)),
    "a hole before them": offsets((1, 16)),
    "a hole behind them": offsets((0, 8)),
    "too many dimensions": entry(shape=[1] * 65, data_offsets=[0, 4]),
    "no shape": entry(shape=None),
    "no dtype": entry(dtype=None),
    "offsets beyond the file": entry(shape=[1000], data_offsets=[0, 4000]),
    "offsets that go back": entry(data_offsets=[16, 0]),
    "three offsets": entry(data_offsets=[0, 16, 16]),
    "offsets of another dtype": entry(dtype="BF16"),
}


def test_tensors_may_stand_in_any_order_and_some_may_be_empty(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(offsets((8, 16), (0, 8), (8, 8), (0, 0), (16, 16)))
    assert len(read_headers([path])) == 5


@pytest.mark.parametrize("header", [{}, {"__metadata__": {}}])
def test_a_header_of_no_tensor_is_of_no_weights(folder: Path, header: Any) -> None:
    (folder / "model.safetensors").write_bytes(of_object(header))
    refused(folder, "has no weights")


def test_a_header_or_an_index_of_very_many_values_is_not_read_into_memory(folder: Path) -> None:
    many: dict[str, list[int]] = {str(number): [] for number in range(600_000)}
    (folder / "model.safetensors").write_bytes(of_object(many))
    with at_most(64 * 2**20):
        refused(folder, "more than 600,000 values")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": many}))
    with at_most(64 * 2**20):
        refused(folder, "more than 600,000 values")


def test_the_headers_of_all_files_have_one_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    sizes = [len(header(llama())) // 3] * 2
    monkeypatch.setattr(safetensors, "HEADERS_BYTES", sum(sizes))
    refused(folder, "the headers of ")
    monkeypatch.undo()
    monkeypatch.setattr(safetensors, "MOST_TENSORS", 10)
    refused(folder, "than any model has")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "more than 10 tensors")


def test_the_largest_models_are_within_the_limits(tmp_path: Path) -> None:
    tensors = {
        f"model.layers.{layer}.mlp.experts.{expert}.{name}.{kind}": ("U8", (1,))
        for layer in range(61)
        for expert in range(256)
        for name in ("gate_proj", "up_proj", "down_proj")
        for kind in ("weight", "weight_scale_inv")
    }
    config = {**LLAMA, "model_type": "deepseek_v3"}
    folder = write_model(tmp_path / "model", config, tensors, shards=163)
    assert read_folder(folder).parameters == len(tensors)


@pytest.mark.parametrize("content", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_broken_or_hostile_header_is_one_clear_line(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors")


BAD_CONFIGS = {
    "not UTF-8": b'{"model_type": "\xff"}',
    "UTF-16": '{"model_type": "llama"}'.encode("utf-16"),
    "half": b'{"model_type": "lla',
    "a list": b"[]",
    "empty": b"",
    "nested": b"[" * 100_000,
    "a number of 5000 digits": b'{"model_type": ' + b"1" * 5000 + b"}",
    "too long": b'{"a": "' + b"x" * CONFIG_BYTES + b'"}',
}


@pytest.mark.parametrize("content", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_broken_or_hostile_configuration_is_one_clear_line(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    refused(folder, "cannot read")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_special_file_is_refused_without_waiting(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / name).unlink()
    make(folder / name)
    refused(folder, name)


def _nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def _itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, _nowhere, _itself])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.bin", "x.safetensors"])
def test_weights_that_are_not_files_are_refused(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / "model.safetensors").unlink()
    make(folder / name)
    refused(folder, name)


def test_a_link_to_nowhere_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("nowhere")
    refused(folder, "config.json")


@contextmanager
def at_most(spare: int) -> Iterator[None]:
    """Have reading more than ``spare`` bytes fail for want of memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_of_gigabytes_are_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.write((2**32).to_bytes(8, "little"))
        file.truncate(2**33)
    with at_most(64 * 2**20):
        refused(folder, name)


@pytest.mark.parametrize(
    "file", ["../../etc/passwd", "/etc/passwd", "sub/x.safetensors", "..", "", 7, None]
)
def test_an_index_names_no_files_outside_its_folder(tmp_path: Path, file: Any) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": file}}))
    refused(folder, "outside its folder")


@pytest.mark.parametrize(
    "files", [["a.txt"], ["a"], [".bin"], ["a.safetensors", "b.bin"], ["a.bin", "b.py"]]
)
def test_an_index_names_weights_of_one_kind(tmp_path: Path, files: list[str]) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    named = {f"{number}.weight": file for number, file in enumerate(files)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    refused(folder, "not weights, or mixes kinds")


@pytest.mark.parametrize("name", ["x" * 300, "\0", "\x1b\n"])
def test_an_index_can_name_an_impossible_file(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    named = {"a.weight": f"{name}.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    refused(folder, "is missing")


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "model-00002-of-00003.safetensors is missing")


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "{"])
def test_an_index_of_nothing_is_refused(tmp_path: Path, index: str) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    (folder / "model.safetensors.index.json").write_text(index)
    refused(folder, "index.json")


def test_training_arguments_are_not_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "training_args.bin")
    refused(folder, "has no weights")


def test_a_shard_that_an_index_does_not_name_is_not_counted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    write_safetensors(folder / "consolidated.safetensors", llama())
    assert read_folder(folder) == WHOLE


# --- whatever the bytes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [*LLAMA, "text_config", "quantization_config", "auto_map", "dtype", "data_offsets"]
            )
            | st.text(max_size=4),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_header_is_tensors_or_an_error_of_ours(content: bytes) -> None:
    for size in (None, 8 + len(content), 1000):
        with suppress(ModelError):
            parse_header(content, size, "a file")


@given(st.binary(max_size=16), st.integers(0, 2**40) | st.none())
def test_no_header_is_longer_than_its_file_or_than_any_header(
    first: bytes, size: int | None
) -> None:
    try:
        length = header_length(first, size, "a file")
    except ModelError:
        return
    assert length <= HEADER_BYTES
    assert size is None or 8 + length <= size


@given(JSON)
def test_any_configuration_is_facts_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, config: Any
) -> None:
    folder = write_model(tmp_path_factory.mktemp("any"), config)
    with suppress(ModelError):
        known = read_folder(folder)
        assert known.shape is None or min(known.shape.hidden, known.shape.layers) > 0
    shutil.rmtree(folder)


@given(st.dictionaries(st.sampled_from(list(LLAMA)), JSON, max_size=4))
@example({"model_type": [], "tie_word_embeddings": None})
def test_any_value_of_a_known_key_is_a_shape_or_a_reason(values: dict[str, Any]) -> None:
    with suppress(UnknownShapeError):
        assert shape_of(changed(**values)).vocabulary > 0


@given(st.binary(max_size=100))
def test_an_object_is_read_or_an_error_of_ours(content: bytes) -> None:
    with suppress(ModelError):
        assert isinstance(parse_object(content, 50, "a file"), dict)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda weights: {f"_orig_mod.{name}": size for name, size in weights.items()},
            "_orig_mod.",
        ),
        (
            lambda weights: without(weights, "model.layers.1.mlp.up_proj.weight"),
            "up_proj of layer 1",
        ),
        (lambda weights: without(weights, "model.embed_tokens.weight"), "the embedding is missing"),
        (lambda weights: without(weights, "lm_head.weight"), "lack lm_head.weight"),
        (
            lambda weights: weights | {"model.embed_tokens.weight": ("BF16", (299, 64))},
            "embed_tokens.weight has the size [299, 64] instead of [300, 64]",
        ),
        (
            lambda weights: (
                weights | {"model.layers.0.self_attn.k_proj.weight": ("BF16", (64, 64))}
            ),
            "k_proj.weight has the size [64, 64] instead of [32, 64]",
        ),
    ],
)
def test_weights_that_are_not_those_of_config_json_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], told: str
) -> None:
    config = {**LLAMA, "head_dim": 16, "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(ModelError, match=re.escape(told)):
        read_model(str(write_model(tmp_path / "m", config, change(llama()))))
    assert read_model(str(write_model(tmp_path / "whole", config))).parameters


def test_a_classifier_needs_no_output_matrix(tmp_path: Path) -> None:
    config = {**LLAMA, "architectures": ["LlamaForSequenceClassification"]}
    weights = without(llama(), "lm_head.weight")
    assert read_model(str(write_model(tmp_path / "m", config, weights))).parameters


def without(weights: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: size for key, size in weights.items() if key != name}
