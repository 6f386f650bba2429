"""Reads the headers of weights files: names, dtypes and shapes, but no weights.

The format is https://huggingface.co/docs/safetensors: eight bytes of length, a JSON object, then
the numbers. Files are untrusted: every claim of a header is checked against the file.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from aligntune.errors import ModelError, shown
from aligntune_run.models.config import Shape, parse_object, read_object, widths

HEADER_BYTES = 8 * 2**20
"""Maximum for one file; the largest known headers have a few hundred thousand bytes."""

HEADERS_BYTES = 32 * 2**20
"""Maximum for all files of a model; one with a trillion parameters has 18 million."""

INDEX_BYTES = 16 * 2**20
MOST_VALUES = 600_000
"""Maximum number of JSON values in a header or index. A value takes a hundred bytes of memory; a
tensor has about nine values in a header, and four in an index."""

MOST_TENSORS = 160_000
MOST_FILES = 4096
MOST_DIMENSIONS = 64
"""The maximum in torch."""

DTYPES = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "I8": ("int8", 8),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
}
"""safetensors' name -> torch's name, and bits."""

BITS = dict(DTYPES.values())
NUMBERS_PER_BYTE = 16
"""No dtype packs more, known or unknown."""

AGAIN = "Save or download it again"

BUFFERS = re.compile(r"\.(attn\.bias|attn\.masked_bias|attention\.bias|inv_freq|position_ids)$")
"""Masks and positions that older checkpoints contain besides their weights."""

NOT_LINEAR = frozenset(("wte", "wpe", "lm_head", "score", "classifier", "output", "gate", "router"))
"""Modules with matrices that are never adapted: embeddings, heads and expert routers."""

OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
EXPERT = re.compile(r"\.experts\.\d+\.")
"""transformers 5 puts a layer's experts in one tensor, which is not a linear layer."""

PACKED = (".qweight", ".weight_packed", ".weight")
"""Name endings of quantized matrices; scales and zeros next to them are not weights."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file, ``dtype`` in torch's names."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def module(self) -> str:
        """The last part of its module's name, such as ``q_proj``."""
        return self.name.split(".")[-2] if "." in self.name else ""


def find_weights(folder: Path) -> tuple[Path, ...]:
    """The files that transformers would load: one file before an index, safetensors before .bin.

    Raises:
        ModelError: there are none, or an index names one that is missing or outside the folder.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if os.path.exists(folder / name):
            return (folder / name,)
        if os.path.exists(index):
            return _indexed(index)
    for pattern in ("*.safetensors", "*.bin"):
        found = [path for path in sorted(folder.glob(pattern)) if path.name != "training_args.bin"]
        if found:
            return tuple(found)
    raise ModelError(
        f"{folder} has no weights (*.safetensors or *.bin)", "Save or download them to this folder"
    )


def weight_names(index: dict[str, Any], name: str) -> dict[str, str]:
    """An index's map from tensor to file name.

    Raises:
        ModelError: there is no map, or it names a file that is outside its folder or not weights.
    """
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{name} names no weights (weight_map)", AGAIN)
    for file in found.values():
        if not isinstance(file, str) or os.path.basename(file) != file or file in ("", ".", ".."):
            raise ModelError(f"{name} names weights outside its folder: '{shown(file)}'", AGAIN)
    files = set(found.values())
    if len(files) > MOST_FILES or len(found) > MOST_TENSORS:
        raise ModelError(f"{name} names more files or tensors than any model has", AGAIN)
    first = os.path.splitext(min(files))[1]
    for file in files:
        if first not in (".safetensors", ".bin") or not file.endswith(first):
            raise ModelError(
                f"{name} names a file that is not weights, or mixes kinds: '{shown(file)}'",
                AGAIN,
            )
    return found


def _indexed(index: Path) -> tuple[Path, ...]:
    content = read_object(index, INDEX_BYTES, MOST_VALUES)
    files = sorted(set(weight_names(content, str(index)).values()))
    for file in files:
        if not os.path.exists(index.parent / file):
            raise ModelError(
                f"{index.parent} is incomplete: {shown(file)} is missing (see {index.name})",
                "Download the missing file",
            )
    return tuple(index.parent / file for file in files)


def file_size(path: Path) -> int:
    """The size of a weights file in bytes.

    Raises:
        ModelError: it does not exist, or is not a regular file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror or error}",
            "Fix its permissions, or use another copy",
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path} is not a file", AGAIN)
    return status.st_size


def read_headers(files: Sequence[Path]) -> list[Tensor]:
    """The tensors of a model's safetensors files.

    Raises:
        ModelError: a file is not a safetensors file, or its header is impossible; or the files have
            no tensors, or more than any model has.
    """
    found: list[Tensor] = []
    left = HEADERS_BYTES
    for path in files:
        size = file_size(path)
        try:
            with path.open("rb") as file:
                length = header_length(file.read(8), size, str(path))
                left -= length
                if left < 0:
                    raise ModelError(
                        f"the headers of {path.parent} have more than {HEADERS_BYTES >> 20} MiB",
                        AGAIN,
                    )
                found += parse_header(file.read(length), size, str(path))
        except OSError as error:
            raise ModelError(
                f"cannot read {path}: {error.strerror or error}",
                "Fix its permissions, or use another copy",
            ) from error
        if len(found) > MOST_TENSORS:
            raise ModelError(f"{path.parent} has more than {MOST_TENSORS:,} tensors", AGAIN)
    if not found:
        raise ModelError(f"{files[0].parent} has no weights: its files contain no tensors", AGAIN)
    return found


def header_length(first: bytes, size: int | None, name: str) -> int:
    """The header's length in a file of ``size`` bytes that begins with these eight bytes.

    Raises:
        ModelError: it is longer than the file, or than any header.
    """
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or (size is not None and length > size - 8):
        raise ModelError(f"{name} is truncated, or is not a safetensors file", AGAIN)
    if length > HEADER_BYTES:
        raise ModelError(
            f"{name} is not a safetensors file: its header would have {length:,} bytes", AGAIN
        )
    return length


def parse_header(header: bytes, size: int | None, name: str) -> list[Tensor]:
    """The tensors of a header, checked against the file's ``size`` if it is known.

    Raises:
        ModelError: the header is invalid or impossible.
    """
    room = None if size is None else size - 8 - len(header)
    entries = parse_object(header.rstrip(b" "), HEADER_BYTES, f"the header of {name}", MOST_VALUES)
    entries.pop("__metadata__", None)
    found = [_tensor(key, value, room, name) for key, value in entries.items()]
    # As in safetensors' own library: one tensor after the other, up to the end of the file.
    place = 0
    for begin, end, key in sorted((*value["data_offsets"], key) for key, value in entries.items()):
        if begin != place:
            raise _misfit(name, key)
        place = end
    if found and room not in (None, place):
        raise ModelError(f"{name} is broken: its tensors end before the file does", AGAIN)
    return found


def _misfit(name: str, key: str) -> ModelError:
    return ModelError(
        f"{name} is broken: its header does not match its tensor '{shown(key)}'", AGAIN
    )


def _tensor(key: str, value: Any, room: int | None, name: str) -> Tensor:
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str):
        raise _misfit(name, key)
    shape, offsets = _sizes(value.get("shape")), _sizes(value.get("data_offsets"))
    if shape is None or len(shape) > MOST_DIMENSIONS or offsets is None or len(offsets) != 2:
        raise _misfit(name, key)
    begin, end = offsets
    if begin > end or (room is not None and end > room):
        raise _misfit(name, key)
    dtype, bits = DTYPES.get(value["dtype"], ("", None))
    count = prod(shape)
    if bits is not None and count * bits != (end - begin) * 8:
        raise _misfit(name, key)
    if count > NUMBERS_PER_BYTE * (end - begin):
        raise _misfit(name, key)
    return Tensor(key, dtype or shown(value["dtype"].lower()), shape)


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A list of sizes; None for anything else."""
    if not isinstance(value, list):
        return None
    for one in value:
        if type(one) is not int or not 0 <= one < 2**63:
            return None
    return tuple(value)


def only_weights(tensors: Iterable[Tensor], tied: bool) -> list[Tensor]:
    """The weights without buffers; a matrix that is both embedding and output appears once."""
    found = [tensor for tensor in tensors if not BUFFERS.search(tensor.name)]
    embeddings = {tensor.shape for tensor in found if EMBEDDING.search(tensor.name)}
    if not tied:
        return found
    return [
        tensor
        for tensor in found
        if not (OUTPUT.search(tensor.name) and tensor.shape in embeddings)
    ]


def has_output(names: Iterable[str]) -> bool:
    """Whether the weights include a separate output matrix."""
    return any(OUTPUT.search(name) for name in names)


def main_dtype(tensors: Iterable[Tensor]) -> str | None:
    """The dtype of most weights."""
    count: Counter[str] = Counter()
    for tensor in tensors:
        count[tensor.dtype] += prod(tensor.shape)
    return count.most_common(1)[0][0] if count else None


def linear_sums(tensors: Iterable[Tensor]) -> tuple[tuple[str, int], ...]:
    """By module name, the sum of inputs and outputs of the linear layers an adapter uses."""
    found: Counter[str] = Counter()
    for tensor in tensors:
        if len(tensor.shape) == 2 and _is_linear(tensor.name, (".weight",)):
            found[tensor.module] += sum(tensor.shape)
    return tuple(sorted(found.items()))


def linear_sums_by_name(names: Iterable[str], shape: Shape) -> tuple[tuple[str, int], ...]:
    """Like :func:`linear_sums`, for weights known only by name; common names only."""
    found: Counter[str] = Counter()
    for name in names:
        module = name.split(".")[-2] if "." in name else ""
        if _is_linear(name, PACKED) and (sizes := widths(module, shape)):
            found[module] += sum(sizes)
    return tuple(sorted(found.items()))


def _is_linear(name: str, endings: tuple[str, ...]) -> bool:
    module = name.split(".")[-2] if "." in name else ""
    left_out = module in NOT_LINEAR or "embed" in module or EXPERT.search(name)
    return name.endswith(endings) and not left_out


def parameters(tensors: Sequence[Tensor], shape: Shape | None, quantized: bool) -> int | None:
    """The number of weights, however the files pack them; None if it is unknown."""
    if not quantized:
        return sum(prod(tensor.shape) for tensor in tensors)
    total = 0
    for tensor in tensors:
        whole = tensor.dtype.startswith(("float", "bfloat")) and "_x2" not in tensor.dtype
        if tensor.name.endswith(PACKED) and not whole:
            sizes = widths(tensor.module, shape) if shape else None
            if sizes is None:
                return None
            total += prod(sizes)
        elif tensor.name.endswith((".weight", ".bias")):
            total += prod(tensor.shape)
        elif tensor.name.endswith("_blocks"):  # the experts of MXFP4
            return None
    return total
