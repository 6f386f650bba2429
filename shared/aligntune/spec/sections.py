"""The sections of a RunSpec: meaning, default and limits of each key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CANONICAL_COLUMNS = (
    *("messages", "conversations", "prompt", "completion", "instruction", "input", "output"),
    *("text", "tools", "chosen", "rejected", "label"),
)
"""Columns that data can have, under these names or as mapped by ``dataset.columns``."""

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Sets:
    """Metadata of a key: the trainer arguments that it sets, which users may not set as well.

    Attributes:
        arguments: names in the trainers' configuration classes.
        key: the key to name in messages, if that is not the dotted key itself.
    """

    arguments: tuple[str, ...]
    key: str | None = None


def sets(*arguments: str, key: str | None = None) -> Sets:
    """The metadata of a key that sets these trainer arguments."""
    return Sets(arguments, key)


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
        trust_remote_code: run the Python code in the model's repository.
    """

    name: str = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "4bit", "8bit"] = "none"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    chat_template: Annotated[str | None, sets("chat_template_path")] = None
    trust_remote_code: Annotated[bool, sets("trust_remote_code")] = False


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

    name: str = Field(min_length=1)
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    eval_name: str | None = None
    eval_split: str | None = None
    format: Literal[
        "auto",
        "text",
        "prompt_completion",
        "chat",
        "instruction",
        "preference",
        "unpaired",
        "prompt",
    ] = "auto"
    columns: Annotated[dict[str, str], sets("dataset_text_field", key="dataset.columns.text")] = {}
    max_samples: PositiveInt | None = None
    system_prompt: str | None = None
    validation_fraction: Fraction = 0.0


class TrainingSpec(Section):
    """How the model is trained. Every value is passed to the trainer, which applies no defaults.

    Attributes:
        epochs: passes over the training rows; ``max_steps`` overrides it.
        batch_size: sequences per device per step.
        gradient_accumulation: batches per optimizer step.
        learning_rate: peak learning rate; the default depends on the algorithm (2e-5 for SFT, 1e-6
            for DPO and GRPO, ...) and is ten times higher for an adapter.
        schedule: learning-rate schedule, by its name in transformers.
        warmup: optimizer steps (1 or more) or fraction of all steps (below 1).
        weight_decay: decoupled weight decay (AdamW).
        optimizer: optimizer, by its name in transformers.
        max_grad_norm: gradient norm at which gradients are clipped.
        max_length: sequences are cut to this many tokens; null keeps every token. For online
            algorithms the keys of ``rl`` set lengths, and this limits prompt plus completion.
        packing: put several rows in one sequence (best-fit decreasing; rows do not see each other).
        group_by_length: put rows of similar length in the same batch, which needs less padding.
        completion_only_loss: learn only the completion; null means yes for prompt-completion data.
        assistant_only_loss: learn only the assistant's messages (chat data).
        gradient_checkpointing: recompute activations to save memory; ``auto`` is on with a GPU.
        precision: ``auto`` is bf16 if the hardware supports it, else fp16 on a GPU and fp32 on a
            CPU.
        seed: random seed of Python, NumPy and torch.
        logging_steps: optimizer steps between logged losses.
        eval_steps: optimizer steps between evaluations; null evaluates only at the end.
        save_steps: optimizer steps between checkpoints.
        save_total_limit: number of checkpoints to keep.
    """

    epochs: Annotated[float, sets("num_train_epochs")] = Field(default=3.0, gt=0)
    max_steps: Annotated[PositiveInt | None, sets("max_steps")] = None
    batch_size: Annotated[
        PositiveInt, sets("per_device_train_batch_size", "auto_find_batch_size")
    ] = 8
    gradient_accumulation: Annotated[PositiveInt, sets("gradient_accumulation_steps")] = 1
    learning_rate: Annotated[float, sets("learning_rate")] = Field(default=2e-5, ge=0)
    schedule: Annotated[str, sets("lr_scheduler_type")] = "linear"
    warmup: Annotated[float, sets("warmup_steps")] = Field(default=0.0, ge=0)
    weight_decay: Annotated[float, sets("weight_decay")] = Field(default=0.0, ge=0)
    optimizer: Annotated[str, sets("optim")] = "adamw_torch_fused"
    max_grad_norm: Annotated[float, sets("max_grad_norm")] = Field(default=1.0, ge=0)
    max_length: Annotated[PositiveInt | None, sets("max_length", "max_seq_length")] = 1024
    packing: Annotated[bool, sets("packing")] = False
    group_by_length: Annotated[bool, sets("train_sampling_strategy")] = True
    completion_only_loss: Annotated[bool | None, sets("completion_only_loss")] = None
    assistant_only_loss: Annotated[bool, sets("assistant_only_loss")] = False
    gradient_checkpointing: Annotated[
        bool | Literal["auto"], sets("gradient_checkpointing", "activation_checkpointing")
    ] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], sets("bf16", "fp16")] = "auto"
    seed: Annotated[int, sets("seed")] = Field(default=42, ge=0, lt=2**32)
    logging_steps: Annotated[PositiveInt, sets("logging_steps", "logging_strategy")] = 10
    eval_steps: Annotated[PositiveInt | None, sets("eval_steps", "eval_strategy")] = None
    save_steps: Annotated[PositiveInt, sets("save_steps", "save_strategy")] = 500
    save_total_limit: Annotated[PositiveInt | None, sets("save_total_limit")] = 2


class AdapterSpec(Section):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685), or none for full fine-tuning.

    Attributes:
        type: ``none`` trains every weight.
        path: an existing adapter (folder or hub id) to continue training; it keeps its shape.
        rank: rank of the update matrices.
        alpha: the update is scaled by alpha / rank.
        dropout: dropout on the adapter's input.
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


class PreferenceSpec(Section):
    """Learning from preferences: DPO (https://arxiv.org/abs/2305.18290) and KTO.

    Attributes:
        beta: how strongly the policy stays close to the reference.
        loss_type: TRL's name of the loss, such as ``sigmoid``, ``ipo`` or ``hinge`` for DPO; null
            is the algorithm's default.
        label_smoothing: the assumed fraction of pairs with swapped labels, in [0, 0.5) (DPO only).
    """

    beta: Annotated[float, sets("beta")] = Field(default=0.1, ge=0)
    loss_type: Annotated[str | None, sets("loss_type")] = None
    label_smoothing: Annotated[float, sets("label_smoothing")] = Field(default=0.0, ge=0, lt=0.5)


class RLSpec(Section):
    """Learning from rewards of the policy's own completions.

    Attributes:
        num_generations: completions per prompt (the group of GRPO and RLOO);
            ``training.batch_size`` times ``gradient_accumulation`` must be a multiple of it.
        max_prompt_length: longer prompts are skipped and counted, in tokens; null keeps all.
        max_completion_length: completions are cut at this many tokens.
        temperature: sampling temperature.
        top_p: sample from the most likely tokens whose total probability is this.
        top_k: sample from this many most likely tokens; 0 means all.
        beta: coefficient of the KL penalty; the default depends on the algorithm (0 in the GRPO
            family, 0.05 in PPO and RLOO).
        epsilon: the importance ratio is clipped to [1 - epsilon, 1 + epsilon].
        epsilon_high: a different upper bound (DAPO: 0.28).
        num_iterations: passes over each batch of completions (PPO: 4 epochs, else 1).
    """

    num_generations: Annotated[PositiveInt, sets("num_generations")] = 8
    max_prompt_length: Annotated[PositiveInt | None, sets("max_prompt_length")] = 512
    max_completion_length: Annotated[PositiveInt, sets("max_completion_length")] = 256
    temperature: Annotated[float, sets("temperature")] = Field(default=1.0, gt=0)
    top_p: Annotated[float, sets("top_p")] = Field(default=1.0, gt=0, le=1)
    top_k: Annotated[int, sets("top_k")] = Field(default=0, ge=0)
    beta: Annotated[float, sets("beta", "kl_coef")] = Field(default=0.0, ge=0)
    epsilon: Annotated[float, sets("epsilon", "cliprange")] = Field(default=0.2, gt=0)
    epsilon_high: Annotated[float | None, sets("epsilon_high")] = Field(default=None, gt=0)
    num_iterations: Annotated[PositiveInt, sets("num_iterations", "num_ppo_epochs")] = 1


class PPOSpec(Section):
    """PPO's settings beside those of :class:`RLSpec` (https://arxiv.org/abs/1707.06347).

    Attributes:
        num_mini_batches: optimizer steps per pass over a rollout; a rollout has this many times
            ``training.batch_size`` times ``gradient_accumulation`` completions.
        gamma: discount per token.
        lam: lambda of generalised advantage estimation (https://arxiv.org/abs/1506.02438).
        vf_coef: weight of the value loss.
        cliprange_value: how far a value may move from the rollout's value before its loss is
            clipped.
        kl_estimator: estimator of the penalty per token, k1 or k3 (http://joschu.net/blog/kl-approx.html).
        whiten_rewards: scale a rollout's rewards to unit variance.
        whiten_advantages: scale a rollout's advantages to mean 0 and variance 1.
        missing_eos_penalty: subtracted from the score of a completion without an end token.
        target_kl: stop the passes over a rollout at this distance of the policy, in nats per token.
        critic: a value ``head`` on the policy's hidden states, with ten times the learning rate, or
            a separate ``model``, which learns better and needs the memory of a second model.
    """

    num_mini_batches: Annotated[PositiveInt, sets("num_mini_batches")] = 1
    gamma: Annotated[float, sets("gamma")] = Field(default=1.0, gt=0, le=1)
    lam: Annotated[float, sets("lam")] = Field(default=0.95, ge=0, le=1)
    vf_coef: Annotated[float, sets("vf_coef")] = Field(default=0.1, ge=0)
    cliprange_value: Annotated[float, sets("cliprange_value")] = Field(default=0.2, gt=0)
    kl_estimator: Annotated[Literal["k1", "k3"], sets("kl_estimator")] = "k1"
    whiten_rewards: Annotated[bool, sets("whiten_rewards")] = False
    whiten_advantages: Annotated[bool, sets("whiten_advantages")] = True
    missing_eos_penalty: Annotated[float | None, sets("missing_eos_penalty")] = Field(
        default=None, ge=0
    )
    target_kl: Annotated[float | None, sets("target_kl")] = Field(default=None, gt=0)
    critic: Annotated[Literal["head", "model"], sets("critic")] = "head"


class RewardSpec(Section):
    """One reward; ``rewards: [exact_match]`` is short for ``rewards: [{name: exact_match}]``.

    Attributes:
        name: a built-in reward (docs/rewards.md), or ``path.py:function`` for your own function.
        model: instead of ``name``, a reward model: a sequence classifier with one label, as a
            folder or hub id.
        revision: branch, tag or commit of a model's hub id.
        weight: factor of the reward in the sum.
        timeout: seconds that one call may take.
        args: keyword arguments of the function, or of scoring by the model.
    """

    name: str | None = None
    model: str | None = None
    revision: str | None = None
    weight: float = 1.0
    timeout: float = Field(default=120.0, gt=0)
    args: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.model is None):
            raise ValueError("a reward needs a name or a model, not both")
        if self.revision is not None and (self.model is None or is_local(self.model)):
            raise ValueError("revision applies only to a reward model's hub id; remove it")
        require_recordable(self.args, "args")
        return self

    @property
    def file(self) -> str | None:
        """The file of a custom function."""
        path, colon, _ = (self.name or "").rpartition(":")
        return path if colon else None


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
