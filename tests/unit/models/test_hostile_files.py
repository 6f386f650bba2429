"""Broken and hostile model files are one clear line, and never read whole."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.checkpoints import LLAMA, header, llama, write_model

from aligntune.errors import ModelError
from aligntune_run.models import safetensors
from aligntune_run.models.config import CONFIG_BYTES, UnknownShapeError, parse_object, shape_of
from aligntune_run.models.facts import read_folder, read_model
from aligntune_run.models.safetensors import HEADER_BYTES, header_length, parse_header, read_headers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def changed(**values: Any) -> dict[str, Any]:
    return LLAMA | values


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
