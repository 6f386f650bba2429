"""What a model's folder said before training, so that the saved folder says the same.

Trainers change a model's configuration in memory: they turn the cache off, ask an MoE model for its
router's logits, copy padding tokens, pad on the other side. None of this belongs in the result.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.spec.run_spec import RunSpec

GENERATION = "generation_config.json"

TRAINED = frozenset(
    (
        *("architectures", "dtype", "torch_dtype", "transformers_version", "quantization_config"),
        *("num_labels", "id2label", "label2id", "problem_type", "eos_token_id"),
    )
)
"""Keys of ``config.json`` that a run decides: the kind of model and the token that ends a text."""


@dataclass(frozen=True)
class Given:
    """A model's settings as loaded.

    Attributes:
        config: the values of ``config.json``.
        generation: the content of ``generation_config.json``, None without one.
        dtype: ``torch.dtype`` of the weights in the files; None if the run keeps its own.
        padding_side: of the tokenizer.
        pads: whether the run decides the padding token, because a classifier reads its score at
            the last token before the padding.
        trust: whether the model's repository may run code.
    """

    config: dict[str, Any]
    generation: dict[str, Any] | None
    dtype: Any | None
    padding_side: str
    pads: bool
    trust: bool

    @classmethod
    def of(cls, spec: RunSpec, folder: Path, config: Any, tokenizer: Any) -> Given:
        """The settings in ``folder``.

        Args:
            spec: the request; the result has the dtype of the files unless it names one.
            folder: of the model.
            config: the model's configuration, before a trainer saw it.
            tokenizer: the model's.
        """
        file = folder / GENERATION
        keeps_dtype = spec.model.dtype == "auto" and spec.adapter.type == "none"
        side = tokenizer.init_kwargs.get("padding_side", type(tokenizer).padding_side)
        return cls(
            config=config.to_dict(),
            generation=json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None,
            dtype=(getattr(config, "dtype", None) or _first_dtype(folder)) if keeps_dtype else None,
            padding_side=side,
            pads=spec.row.head == "classifier",
            trust=spec.model.trust_remote_code,
        )

    @contextmanager
    def restored(self, config: Any) -> Iterator[None]:
        """Undo what trainers changed in a model's configuration, inside this context.

        Afterwards the trainer's values are back: some trainers read them at every step.
        """
        kept = TRAINED | {"pad_token_id"} if self.pads else TRAINED
        changed = copy.deepcopy(config.to_dict())
        _restore(config, self.config, kept)
        try:
            yield
        finally:
            _restore(config, changed, kept)

    def restore_generation(self, folder: Path) -> None:
        """Write ``generation_config.json`` as it was, with the end tokens of the run.

        Values that transformers refuses to save, such as a temperature without ``do_sample``, stay
        as the model's author wrote them.
        """
        file = folder / GENERATION
        if self.generation is None or not file.is_file():
            return
        written = json.loads(file.read_text(encoding="utf-8"))
        ends = written.get("eos_token_id")
        before = self.generation.get("eos_token_id")
        same = ends is None or _listed(ends) == _listed(before)
        changed = {} if same else {"eos_token_id": ends}
        text = json.dumps({**self.generation, **changed}, indent=2)
        file.write_text(text + "\n", encoding="utf-8")


def _listed(tokens: int | list[int] | None) -> list[int]:
    return tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]


def make_savable(model: Any) -> None:
    """Reduce a generation config that transformers refuses to save to its special tokens.

    Trainers copy the padding token into it, and checkpoints save it: without this, the first
    checkpoint of a model with ``temperature`` and no ``do_sample`` ends the run.
    """
    from transformers import GenerationConfig

    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
        tokens = {name: getattr(config, name, None) for name in names}
        model.generation_config = GenerationConfig(**tokens)


def _restore(config: Any, before: dict[str, Any], kept: frozenset[str]) -> None:
    now = config.to_dict()
    for key in now.keys() - before.keys() - kept:
        if key in config.__dict__:  # a trainer added it
            delattr(config, key)
    for key, value in before.items():
        if key in kept or now.get(key) == value:
            continue
        part = getattr(config, key, None) if isinstance(value, dict) else None
        if hasattr(part, "to_dict"):
            _restore(part, value, kept)
        else:
            setattr(config, key, value)


def _first_dtype(folder: Path) -> Any | None:
    """The dtype of the first weights, for a ``config.json`` without one."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dictionary
                tensor = weights.get_slice(name)
                dtype = tensor[:0].dtype if tensor.get_shape() else weights.get_tensor(name).dtype
                if dtype.is_floating_point:
                    return dtype
    return None
