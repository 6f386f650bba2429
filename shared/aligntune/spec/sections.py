"""The sections of a RunSpec that apply to every algorithm: meaning, default and limits of keys."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aligntune.algorithms import FORMATS
from aligntune.spec.flags import ADAPTER, DATA, TRAINING, Flag

CANONICAL_COLUMNS = tuple(dict.fromkeys(chain.from_iterable(FORMATS.values())))
"""Columns that data can have, under these names or as mapped by ``dataset.columns``."""

EFFECTIVE_BATCH = 16
"""Sequences per optimizer step that batches are accumulated to, unless the request says how many
batches."""

ALPHA_PER_RANK, RSLORA_ALPHA = 2, 32
"""LoRA's alpha where the request has none: a factor of the rank, or constant with rsLoRA, whose
scale already follows the rank."""

TEMPLATE_INPUTS = (
    *("messages", "tools", "documents", "add_generation_prompt", "conversation"),
    *("chat_template", "tokenize", "return_dict", "return_assistant_tokens_mask"),
)
"""Arguments of a chat template that come from the data, or from the way it is called."""

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Sets:
    """Metadata of a key: the trainer arguments that it sets, which users may not set as well.

    Attributes:
        arguments: names in the trainers' configuration classes.
        key: the key to name in messages, if that is not the dotted key itself.
        unchanged: whether the first argument gets the key's value as it is.
    """

    arguments: tuple[str, ...]
    key: str | None = None
    unchanged: bool = False


def sets(*arguments: str, key: str | None = None) -> Sets:
    """The metadata of a key that sets these trainer arguments, as the worker says."""
    return Sets(arguments, key)


def passes(*arguments: str) -> Sets:
    """The same if the first argument gets the key's value as it is."""
    return Sets(arguments, unchanged=True)


@dataclass(frozen=True)
class Keyword:
    """Metadata of a key: another name that the Python API takes for it."""

    name: str


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class ModelSpec(Section):
    """The model that is trained.

    Attributes:
        name: a local folder (absolute after resolution) or a Hugging Face hub id.
        revision: branch, tag or commit of a hub id.
        dtype: dtype of the weights; ``auto`` is float32 for full fine-tuning (so that rounding does
            not lose small updates) and the checkpoint's own dtype with an adapter.
        quantization: store the frozen weights in 4-bit NF4 or LLM.int8 (bitsandbytes); needs an
            adapter (QLoRA, https://arxiv.org/abs/2305.14314).
        attention: attention implementation, in transformers' names.
        chat_template: a Jinja file to use instead of the tokenizer's own chat template.
        chat_template_args: arguments of the chat template, e.g. ``{enable_thinking: false}``; rows
            may have their own in a column ``chat_template_args``.
        eos_token: the token that ends a completion, instead of the tokenizer's own.
        trust_remote_code: run the Python code in the model's repository.
    """

    name: Annotated[
        str,
        Flag("--model", "Model: local folder, finished run or hub id.", DATA),
        Keyword("model_name"),
    ] = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Annotated[
        Literal["none", "4bit", "8bit"],
        Flag(
            "--load-in-4bit", "Train the adapter on 4-bit weights (QLoRA).", ADAPTER, value="4bit"
        ),
    ] = "none"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    chat_template: Annotated[str | None, sets("chat_template_path")] = None
    chat_template_args: Annotated[dict[str, Any], sets("chat_template_kwargs")] = {}
    eos_token: Annotated[str | None, sets("eos_token")] = None
    trust_remote_code: Annotated[bool, passes("trust_remote_code")] = False

    @model_validator(mode="after")
    def _recordable_arguments(self) -> Self:
        require_recordable(self.chat_template_args, "chat_template_args")
        taken = [name for name in self.chat_template_args if name in TEMPLATE_INPUTS]
        if taken:
            raise ValueError(f"chat_template_args.{taken[0]} is set from the data; remove it")
        return self


class DatasetSpec(Section):
    """The data.

    Attributes:
        name: a file (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow; text also as .gz, .bz2
            or .xz), a folder of them, a dataset saved with ``save_to_disk``, or a hub id.
        config: configuration name of a hub dataset.
        revision: branch, tag or commit of a hub id.
        split: split to train on, slices allowed (``train[:10%]``).
        eval_name: a separate evaluation set, in any form that ``name`` takes.
        eval_split: split to evaluate on (of ``eval_name`` if given, else of ``name``).
        format: the format of a row; ``auto`` detects it and reports it.
        columns: canonical column -> its name in the data, e.g. ``{prompt: question}``.
        max_samples: train on this many rows, from the first.
        system_prompt: added to every conversation that has no system message.
        validation_fraction: fraction of the training rows held out for evaluation, in [0, 1).
    """

    name: Annotated[
        str,
        Flag("--dataset", "Training data: file, folder or hub id.", DATA),
        Keyword("dataset_name"),
    ] = Field(min_length=1)
    config: str | None = None
    revision: str | None = None
    split: Annotated[str, Keyword("split")] = "train"
    eval_name: Annotated[str | None, Flag("--eval-dataset", "Separate evaluation data.", DATA)] = (
        None
    )
    eval_split: str | None = None
    format: str = "auto"
    columns: Annotated[dict[str, str], sets("dataset_text_field", key="dataset.columns.text")] = {}
    max_samples: Annotated[PositiveInt | None, Keyword("max_samples")] = None
    system_prompt: Annotated[
        str | None,
        Flag("--system-prompt", "System message for conversations that have none.", DATA),
        Keyword("system_prompt"),
    ] = None
    validation_fraction: Annotated[
        Fraction,
        Flag("--val-fraction", "Fraction of the training rows to hold out for evaluation.", DATA),
        Keyword("val_split_ratio"),
    ] = 0.0


class TrainingSpec(Section):
    """How the model is trained. Every value is passed to the trainer, which applies no defaults.

    Attributes:
        epochs: passes over the training rows (1 for DPO, KTO and reward models); ``max_steps``
            overrides it.
        batch_size: sequences per device per step.
        gradient_accumulation: batches per optimizer step; null accumulates 16 sequences or more per
            step, but no more whole batches than the data has (1 for online algorithms).
        learning_rate: peak learning rate; the default depends on the algorithm (2e-5 for SFT, 1e-6
            for DPO and GRPO, ...) and is ten times higher for an adapter.
        schedule: learning-rate schedule, by its name in transformers (cosine for SFT, preferences
            and reward models).
        warmup: optimizer steps (1 or more) or fraction of all steps (below 1; 0.03 for SFT,
            preferences and reward models).
        weight_decay: decoupled weight decay (AdamW).
        optimizer: optimizer, by its name in transformers.
        max_grad_norm: gradient norm at which gradients are clipped.
        max_length: sequences are cut to this many tokens; null keeps every token. For online
            algorithms the keys of ``rl`` set lengths, and this limits prompt plus completion.
        packing: put several rows in one sequence (best-fit decreasing; rows do not see each other).
        group_by_length: put rows of similar length in the same batch, which needs less padding.
        completion_only_loss: learn only the completion; null means yes for prompt-completion data.
        assistant_only_loss: learn only the assistant's messages (chat data); null does if the chat
            template can mark them, and false learns every token.
        gradient_checkpointing: recompute activations to save memory; ``auto`` is on with a GPU.
        precision: ``auto`` is bf16 if the hardware supports it, else fp16 on a GPU and fp32 on a
            CPU.
        seed: random seed of Python, NumPy and torch.
        logging_steps: optimizer steps between logged losses.
        eval_steps: optimizer steps between evaluations; null evaluates only at the end.
        save_steps: optimizer steps between checkpoints.
        save_total_limit: number of checkpoints to keep.
        keep_best: save the checkpoint with the best evaluation (loss, accuracy, margin or reward,
            by algorithm), and make it the result; needs ``eval_steps``.
    """

    epochs: Annotated[
        float,
        passes("num_train_epochs"),
        Flag("--epochs", "Passes over the data.", TRAINING),
        Keyword("num_epochs"),
    ] = Field(default=3.0, gt=0)
    max_steps: Annotated[
        PositiveInt | None,
        sets("max_steps"),
        Flag("--max-steps", "Optimizer steps; overrides epochs.", TRAINING),
        Keyword("max_steps"),
    ] = None
    batch_size: Annotated[
        PositiveInt,
        passes("per_device_train_batch_size", "auto_find_batch_size"),
        Flag("--batch-size", "Sequences per device per step.", TRAINING),
        Keyword("batch_size"),
    ] = 8
    gradient_accumulation: Annotated[
        PositiveInt | None,
        sets("gradient_accumulation_steps"),
        Flag("--grad-accum", "Batches to accumulate before each optimizer step.", TRAINING),
        Keyword("gradient_accumulation_steps"),
    ] = None
    learning_rate: Annotated[
        float,
        passes("learning_rate"),
        Flag("--lr", "Peak learning rate.", TRAINING),
        Keyword("learning_rate"),
    ] = Field(default=2e-5, ge=0)
    schedule: Annotated[
        str,
        passes("lr_scheduler_type"),
        Flag("--schedule", "Learning-rate schedule, e.g. linear or cosine.", TRAINING),
    ] = "linear"
    warmup: Annotated[
        float,
        sets("warmup_steps"),
        Flag("--warmup", "Warm-up: steps, or a fraction below 1.", TRAINING),
    ] = Field(default=0.0, ge=0)
    weight_decay: Annotated[float, passes("weight_decay")] = Field(default=0.0, ge=0)
    optimizer: Annotated[str, passes("optim")] = "adamw_torch_fused"
    max_grad_norm: Annotated[float, passes("max_grad_norm")] = Field(default=1.0, ge=0)
    max_length: Annotated[
        PositiveInt | None,
        sets("max_length", "max_seq_length"),
        Flag("--max-length", "Truncate sequences to this many tokens.", DATA),
        Keyword("max_seq_length"),
    ] = 1024
    packing: Annotated[
        bool,
        sets("packing"),
        Flag("--packing", "Pack several rows into one sequence (SFT).", DATA),
        Keyword("packing"),
    ] = False
    group_by_length: Annotated[bool, sets("train_sampling_strategy")] = True
    completion_only_loss: Annotated[
        bool | None, sets("completion_only_loss"), Keyword("completion_only_loss")
    ] = None
    assistant_only_loss: Annotated[
        bool | None, sets("assistant_only_loss"), Keyword("assistant_only_loss")
    ] = None
    gradient_checkpointing: Annotated[
        bool | Literal["auto"], sets("gradient_checkpointing", "activation_checkpointing")
    ] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], sets("bf16", "fp16")] = "auto"
    seed: Annotated[
        int, passes("seed"), Flag("--seed", "Random seed.", TRAINING), Keyword("seed")
    ] = Field(default=42, ge=0, lt=2**32)
    logging_steps: Annotated[
        PositiveInt,
        passes("logging_steps", "logging_strategy"),
        Flag("--logging-steps", "Steps between logged losses.", TRAINING),
    ] = 10
    eval_steps: Annotated[PositiveInt | None, sets("eval_steps", "eval_strategy")] = None
    save_steps: Annotated[
        PositiveInt,
        sets("save_steps", "save_strategy"),
        Flag("--save-steps", "Steps between checkpoints.", TRAINING),
    ] = 500
    save_total_limit: Annotated[PositiveInt | None, passes("save_total_limit")] = 2
    keep_best: Annotated[
        bool,
        passes("load_best_model_at_end"),
        Flag("--keep-best", "Make the checkpoint with the best evaluation the result.", TRAINING),
    ] = False

    def accumulation(self, rows: int | None = None) -> int:
        """Batches per optimizer step: as requested, or enough for ``EFFECTIVE_BATCH`` sequences.

        Args:
            rows: sequences of the training data, if known; a step takes no more whole batches.
        """
        if self.gradient_accumulation is not None:
            return self.gradient_accumulation
        wanted = math.ceil(EFFECTIVE_BATCH / self.batch_size)
        return wanted if rows is None else max(min(wanted, rows // self.batch_size), 1)


class AdapterSpec(Section):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685), or none for full fine-tuning.

    Attributes:
        type: ``none`` trains every weight.
        path: an existing adapter (folder or hub id) to continue training; it keeps its shape.
        rank: rank of the update matrices.
        alpha: the update is scaled by alpha / rank; null is twice the rank (32 with rslora).
        dropout: dropout on the adapter's input.
        targets: module names, or ``all-linear``.
        modules_to_save: names of modules that are trained and saved whole, such as ``embed_tokens``
            and ``lm_head`` for new tokens.
        rslora: scale by alpha / sqrt(rank) instead (https://arxiv.org/abs/2312.03732).
        dora: weight-decomposed adaptation (https://arxiv.org/abs/2402.09353).
    """

    type: Literal["none", "lora"] = "none"
    path: str | None = None
    rank: Annotated[
        PositiveInt,
        Flag("--lora-rank", "Train a LoRA adapter of this rank.", ADAPTER),
        Keyword("lora_r"),
    ] = 16
    alpha: Annotated[
        float | None,
        Flag("--lora-alpha", "LoRA alpha: the update is scaled by alpha / rank.", ADAPTER),
        Keyword("lora_alpha"),
    ] = Field(default=None, gt=0)
    dropout: Annotated[Fraction, Keyword("lora_dropout")] = 0.0
    targets: Annotated[
        Literal["all-linear"] | list[str],
        Flag(
            "--lora-target",
            "Layers to adapt: all-linear, or names such as q_proj,v_proj.",
            ADAPTER,
            metavar="NAMES",
        ),
    ] = "all-linear"
    modules_to_save: list[str] = []
    rslora: bool = False
    dora: bool = False

    @property
    def lora_alpha(self) -> float:
        """Alpha as requested, or what follows from the rank."""
        if self.alpha is not None:
            return self.alpha
        return RSLORA_ALPHA if self.rslora else ALPHA_PER_RANK * self.rank


def require_recordable(value: dict[str, Any], name: str = "") -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        start = f"{name} " if name else ""
        raise ValueError(
            f"{start}may contain only text, finite numbers, lists and mappings ({error})"
        ) from None


def is_local(name: str) -> bool:
    """Whether a resolved model or dataset name is a path on the host, not a hub id."""
    return Path(name).is_absolute()
