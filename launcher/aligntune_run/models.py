"""What a model's own files say, read without torch; unknown for a hub model not yet fetched."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aligntune.errors import ModelError
from aligntune.spec import is_local

HUB = "https://huggingface.co"
HUB_SECONDS = 3.0
CONFIG_BYTES = 2**20
"""More than any config.json holds; a longer answer is no config."""

WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder that its size in memory follows from, as in ``config.json``.

    Attributes:
        hidden: width of the residual stream.
        layers: decoder layers.
        heads: attention heads; ``kv_heads`` those of keys and values, each ``head_dim`` wide.
        intermediate: width between the two halves of a feed-forward block.
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


@dataclass(frozen=True)
class ModelFacts:
    """What a model's own files say; None for what they do not, or where they are not here.

    Attributes:
        model_type: as in ``config.json``.
        vision: whether it takes images too.
        parameters: numbers in its weights' files, tied ones once.
        dtype: of most of them, in torch's names (``bfloat16``).
        context: tokens it takes at most.
        shape: None for a model that is no plain decoder.
        linear: by module name (``q_proj``), the sum of inputs and outputs of its linear layers,
            embedding and output matrix left out: what an adapter's size follows from.
        quantized: the method that the weights are quantized by already, as ``gptq``.
        custom_code: whether its repository carries code of its own (``auto_map``).
        gated: whether the hub gives it only to those who were granted access.
        granted: whether the caller's token opens it; None where nobody asked.
        note: why something is not known, in words.
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


def read_model(name: str) -> ModelFacts:
    """The facts of a local model folder; empty ones for a hub id, see :func:`read_hub_model`.

    Raises:
        ModelError: the folder is not a model, or has no weights.
    """
    if not is_local(name):
        return ModelFacts()
    folder = Path(name)
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file, not a model folder")
    if os.path.exists(folder / "adapter_config.json"):
        raise ModelError(
            f"{folder} is an adapter, not a model",
            "Name its base with --model, and the adapter with --set adapter.path=...",
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a model folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {folder / 'config.json'}: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'} names no model_type")
    if not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise ModelError(
            f"{folder} has no weights (*.safetensors or *.bin)", "Save or download them there"
        )
    return ModelFacts(config["model_type"], "vision_config" in config)


def read_hub_model(
    name: str, revision: str | None, cache: Path, environment: Mapping[str, str], token: Path | None
) -> ModelFacts:
    """The facts of a hub model: from the caller's cache, else by one small request.

    Args:
        name: hub id.
        revision: branch, tag or commit; None is the main branch.
        cache: the caller's hub cache.
        environment: for HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
        token: the file with the hub token, if there is one.

    Returns:
        Empty facts where neither has it: that is no error, as fetching will tell the user more.
    """
    revision = revision or "main"
    folder = cache / f"models--{name.replace('/', '--')}"
    try:
        commit = (folder / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    try:
        return _facts((folder / "snapshots" / commit / "config.json").read_bytes())
    except OSError:
        pass  # not cached
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return ModelFacts()
    from urllib.parse import quote
    from urllib.request import Request, urlopen

    endpoint = environment.get("HF_ENDPOINT") or HUB
    secret = environment.get("HF_TOKEN") or (token.read_text().strip() if token else "")
    url = f"{endpoint.rstrip('/')}/{quote(name)}/resolve/{quote(revision, safe='')}/config.json"
    try:
        request = Request(url, headers={"Authorization": f"Bearer {secret}"} if secret else {})
        with urlopen(request, timeout=HUB_SECONDS) as answer:
            return _facts(answer.read(CONFIG_BYTES))
    except (OSError, ValueError):
        return ModelFacts()


def _facts(config: bytes) -> ModelFacts:
    try:
        values = json.loads(config)
    except ValueError:
        return ModelFacts()
    kind = values.get("model_type") if isinstance(values, dict) else None
    return ModelFacts(kind, "vision_config" in values) if isinstance(kind, str) else ModelFacts()
