"""RunSpec: what the user wants, validated and frozen, in one canonical form.

Flags, YAML files, environment variables and Python arguments all become this
(see :mod:`aligntune.settings`); everything after it reads nothing else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aligntune.algorithms import ALGORITHMS

YAML_FLOAT = re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$")
"""``1e-4``: a number in YAML 1.2, which PyYAML reads as text."""

CANONICAL_COLUMNS = (
    *("messages", "conversations", "prompt", "completion", "instruction", "input", "output"),
    *("text", "tools"),
)
"""Columns that data can have under their own name or, by ``dataset.columns``, under another."""

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

FULL_LEARNING_RATE = 2e-5
ADAPTER_LEARNING_RATE = 2e-4
"""TRL's default for SFT, and ten times it for an adapter: https://thinkingmachines.ai/blog/lora."""


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class ModelSpec(Section):
    """The model that is trained.

    Attributes:
        name: a local folder (absolute after resolution) or a Hugging Face hub id.
        revision: branch, tag or commit of a hub id.
        dtype: the dtype the weights are held in; ``auto`` is float32 for full fine-tuning (so that
            small updates are not lost to rounding) and the checkpoint's own under an adapter.
        quantization: hold the frozen weights in 4-bit NF4 or LLM.int8 (bitsandbytes); needs an
            adapter (QLoRA, https://arxiv.org/abs/2305.14314).
        attention: attention implementation, in transformers' names.
        chat_template: a Jinja file to use instead of the tokenizer's own chat template.
        trust_remote_code: run Python code that the model's repository carries.
    """

    name: str = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "4bit", "8bit"] = "none"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    chat_template: str | None = None
    trust_remote_code: bool = False


class DatasetSpec(Section):
    """The data.

    Attributes:
        name: a file (.jsonl, .json, .csv, .parquet), a folder of them, a dataset saved with
            ``save_to_disk``, or a hub id.
        config: configuration name of a hub dataset.
        revision: branch, tag or commit of a hub id.
        split: split to train on, slices allowed (``train[:10%]``).
        eval_name: a separate evaluation set, in any form that ``name`` takes.
        eval_split: split to evaluate on (of ``eval_name`` if given, else of ``name``).
        format: what a row looks like; ``auto`` detects it and says what it found.
        columns: canonical column -> the name it has in the data, e.g. ``{prompt: question}``.
        max_samples: train on the first so many rows.
        system_prompt: put before every conversation that has no system message of its own.
        validation_fraction: part of the training rows held out for evaluation, in [0, 1).
    """

    name: str = Field(min_length=1)
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    eval_name: str | None = None
    eval_split: str | None = None
    format: Literal["auto", "text", "prompt_completion", "chat", "instruction"] = "auto"
    columns: dict[str, str] = {}
    max_samples: PositiveInt | None = None
    system_prompt: str | None = None
    validation_fraction: Fraction = 0.0

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in value if name not in CANONICAL_COLUMNS]
        if unknown:
            raise ValueError(
                f"no column {unknown[0]!r}; it is canonical name -> name in the data, and the "
                f"canonical names are {', '.join(CANONICAL_COLUMNS)}"
            )
        return value


class TrainingSpec(Section):
    """How the model is trained; every value reaches the trainer, whatever its own default is.

    Attributes:
        epochs: passes over the training rows; ``max_steps``, if given, overrides it.
        batch_size: sequences a device and step.
        gradient_accumulation: batches summed before an optimizer step.
        learning_rate: peak; 2e-5 for full fine-tuning, 2e-4 for an adapter unless given.
        schedule: learning-rate schedule, in transformers' names.
        warmup: optimizer steps (1 or more) or fraction of all steps (below 1).
        weight_decay: decoupled weight decay (AdamW).
        optimizer: optimizer, in transformers' names.
        max_grad_norm: gradient norm at which gradients are clipped.
        max_length: tokens a sequence is cut to; null keeps every token.
        packing: put several rows in one sequence (best-fit decreasing, rows do not see each other).
        group_by_length: batch rows of like length together, which wastes less on padding.
        completion_only_loss: learn the completion only; null means yes for prompt-completion data.
        assistant_only_loss: learn the assistant's turns only (chat data).
        gradient_checkpointing: recompute activations to save memory; ``auto`` is on with a GPU.
        precision: ``auto`` is bf16 where the processor computes in it, else fp16 on a GPU and
            fp32 on a CPU.
        seed: of Python, NumPy and torch.
        logging_steps: optimizer steps between logged losses.
        eval_steps: optimizer steps between evaluations; null evaluates at the end only.
        save_steps: optimizer steps between checkpoints.
        save_total_limit: checkpoints kept.
    """

    epochs: float = Field(default=3.0, gt=0)
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 8
    gradient_accumulation: PositiveInt = 1
    learning_rate: float = Field(default=FULL_LEARNING_RATE, ge=0)
    schedule: str = "linear"
    warmup: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    optimizer: str = "adamw_torch_fused"
    max_grad_norm: float = Field(default=1.0, ge=0)
    max_length: PositiveInt | None = 1024
    packing: bool = False
    group_by_length: bool = True
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = Field(default=42, ge=0, lt=2**32)
    logging_steps: PositiveInt = 10
    eval_steps: PositiveInt | None = None
    save_steps: PositiveInt = 500
    save_total_limit: PositiveInt | None = 2


class AdapterSpec(Section):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685), or none for full fine-tuning.

    Attributes:
        type: ``none`` trains every weight.
        path: an existing adapter (folder or hub id) to go on from; its own shape is kept.
        rank: rank of the update matrices.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input.
        targets: module names, or ``all-linear``.
        rslora: scale by alpha / sqrt(rank) instead (https://arxiv.org/abs/2312.03732).
        dora: weight-decomposed adaptation (https://arxiv.org/abs/2402.09353).
    """

    type: Literal["none", "lora"] = "none"
    path: str | None = None
    rank: PositiveInt = 16
    alpha: float = Field(default=32, gt=0)
    dropout: Fraction = 0.0
    targets: Literal["all-linear"] | list[str] = "all-linear"
    rslora: bool = False
    dora: bool = False


class RunSpec(Section):
    """One run, as the user wants it.

    Attributes:
        backend: ``auto`` takes the fastest that can run this; ``trl`` is TRL, always.
        strict: a backend that was asked for and cannot be had is an error, not a fallback.
        output: the run directory; null gives the run a folder of its own below ``runs/``.
        engine: where it runs; ``process`` is a venv made from the image's lock.
        gpus: ``auto`` (one if there is one), ``all``, a number (0 trains on the CPU), or a
            comma-separated list of indices or UUIDs.
        image: run this derived image instead of the pinned one.
        pull: when to obtain an image.
        memory: memory limit of the container, e.g. ``16g``; null leaves the host a little.
        trainer_args: any other argument of the algorithm's TRL configuration class.
    """

    algorithm: str
    model: ModelSpec
    dataset: DatasetSpec
    training: TrainingSpec = TrainingSpec()
    adapter: AdapterSpec = AdapterSpec()
    backend: Literal["auto", "trl", "unsloth"] = "auto"
    strict: bool = False
    output: str | None = None
    engine: Literal["auto", "docker", "process"] = "auto"
    gpus: str = "auto"
    image: str | None = None
    pull: Literal["missing", "never", "always"] = "missing"
    memory: str | None = None
    trainer_args: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _derive_defaults(cls, data: Any) -> Any:
        """Defaults that hang on another value: an adapter under quantization, its learning rate."""
        if not isinstance(data, dict):
            return data
        data = {
            key: dict(value) if isinstance(value, dict) else value for key, value in data.items()
        }
        model, adapter, training = (data.get(key) or {} for key in ("model", "adapter", "training"))
        if all(isinstance(section, dict) for section in (model, adapter, training)):
            quantized = model.get("quantization", "none") != "none"
            if "type" not in adapter and (quantized or adapter):
                data["adapter"] = adapter = {**adapter, "type": "lora"}
            if adapter.get("type", "none") != "none" and "learning_rate" not in training:
                data["training"] = {**training, "learning_rate": ADAPTER_LEARNING_RATE}
        return data

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, value: str) -> str:
        if value not in ALGORITHMS:
            raise ValueError(f"unknown algorithm {value!r}; known: {', '.join(ALGORITHMS)}")
        return value

    @field_validator("trainer_args")
    @classmethod
    def _recordable(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"must be made of texts, finite numbers, lists and mappings ({error})"
            ) from None
        return value

    @field_validator("memory")
    @classmethod
    def _memory_in_form(cls, value: str | None) -> str | None:
        if value is None:
            return None
        size = value.lower().removesuffix("b")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?[kmgt]?", size) or not float(size.rstrip("kmgt")):
            raise ValueError("must be a size, such as 16g or 800m")
        return value

    @field_validator("gpus", mode="before")
    @classmethod
    def _gpus_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("gpus")
    @classmethod
    def _gpus_in_form(cls, value: str) -> str:
        item = r"(\d+|GPU-[0-9A-Za-z-]+|MIG-[0-9A-Za-z/-]+)"
        if value not in ("auto", "all") and not re.fullmatch(rf"{item}(,{item})*", value):
            raise ValueError("must be auto, all, a number, or a comma-separated list of GPUs")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model.quantization != "none" and self.adapter.type == "none":
            raise ValueError(
                f"model.quantization={self.model.quantization} cannot be trained in full; "
                "leave adapter.type out or set it to lora"
            )
        if self.training.warmup > 1 and self.training.warmup % 1:
            raise ValueError("training.warmup is a fraction below 1 or a whole number of steps")
        if self.training.packing and self.training.max_length is None:
            raise ValueError("training.packing needs training.max_length")
        if self.adapter.type == "none" and self.adapter.path:
            raise ValueError("adapter.path needs adapter.type=lora")
        if self.adapter.type == "none" or self.adapter.path:
            shape = self.adapter.model_dump(exclude={"type", "path"}, exclude_defaults=True)
            why = (
                "adapter.path keeps its own shape" if self.adapter.path else "adapter.type is none"
            )
            for key in shape:
                raise ValueError(f"adapter.{key} has no effect, as {why}; leave it out")
        for key, name, value in (
            ("model.revision", self.model.name, self.model.revision),
            ("dataset.revision", self.dataset.name, self.dataset.revision),
            ("dataset.config", self.dataset.name, self.dataset.config),
        ):
            if value is not None and is_local(name):
                raise ValueError(f"{key} is for a hub id, and {name} is local; leave it out")
        if self.dataset.validation_fraction and (self.dataset.eval_name or self.dataset.eval_split):
            raise ValueError(
                "dataset.validation_fraction and a separate evaluation set exclude each other"
            )
        if self.training.eval_steps and not (
            self.dataset.eval_name or self.dataset.eval_split or self.dataset.validation_fraction
        ):
            raise ValueError(
                "training.eval_steps needs evaluation data; set dataset.eval_name, "
                "dataset.eval_split or dataset.validation_fraction"
            )
        return self

    def to_yaml(self) -> str:
        """The canonical form, every value explicit, as a YAML document."""
        values = self.model_dump(mode="json")
        return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what would be read as something else.

    These are texts that :mod:`aligntune.settings` takes for numbers, and the line separators which
    PyYAML otherwise folds into spaces.
    """

    def represent_str(self, text: str) -> yaml.ScalarNode:
        breaks = any(character in text for character in "\x85\u2028\u2029")
        return self.represent_scalar("tag:yaml.org,2002:str", text, '"' if breaks else None)


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", YAML_FLOAT, list("-+0123456789"))


def is_local(name: str) -> bool:
    """Whether a resolved model or dataset name is a path on the host rather than a hub id."""
    return Path(name).is_absolute()
