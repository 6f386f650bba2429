"""The trainer's arguments, every one of them explicit.

Unsloth changes many of TRL's defaults (learning rate, batch size, optimizer, warm-up, seed, ...),
so a default left to the backend would make the same spec mean two things. Free of torch: the host
reads :data:`OWNERS` to refuse an argument that has a key of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.errors import SpecError
from aligntune.spec import RunSpec

OWNERS = {
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "learning_rate": "training.learning_rate",
    "lr_scheduler_type": "training.schedule",
    "warmup_steps": "training.warmup",
    "weight_decay": "training.weight_decay",
    "optim": "training.optimizer",
    "max_grad_norm": "training.max_grad_norm",
    "max_length": "training.max_length",
    "packing": "training.packing",
    "train_sampling_strategy": "training.group_by_length",
    "completion_only_loss": "training.completion_only_loss",
    "assistant_only_loss": "training.assistant_only_loss",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "seed": "training.seed",
    "logging_steps": "training.logging_steps",
    "eval_steps": "training.eval_steps",
    "save_steps": "training.save_steps",
    "save_total_limit": "training.save_total_limit",
    "output_dir": "output",
    "use_cpu": "gpus",
    "trust_remote_code": "model.trust_remote_code",
}
"""Trainer argument -> the spec's own key for it."""


@dataclass(frozen=True)
class Device:
    """What the worker trains on: ``precision`` is bf16, fp16 or fp32, resolved."""

    cuda: bool
    precision: str

    @property
    def name(self) -> str:
        return "GPU" if self.cuda else "CPU"


def trainer_arguments(spec: RunSpec, device: Device, checkpoints: Path, evaluates: bool) -> Any:
    """Keyword arguments of the SFT trainer's configuration.

    Args:
        spec: the request.
        device: what training runs on.
        checkpoints: folder for checkpoints.
        evaluates: whether there are evaluation rows.

    Raises:
        SpecError: ``trainer_args`` names an argument that has a key of its own.
    """
    refuse_owned(spec)
    training = spec.training
    checkpointing = training.gradient_checkpointing
    explicit = {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "lr_scheduler_kwargs": None,
        "warmup_steps": training.warmup if training.warmup < 1 else int(training.warmup),
        "optim": training.optimizer,
        "optim_args": None,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "label_smoothing_factor": 0.0,
        "neftune_noise_alpha": None,
        "average_tokens_across_devices": True,
        "bf16": device.precision == "bf16",
        "fp16": device.precision == "fp16",
        "bf16_full_eval": False,
        "fp16_full_eval": False,
        "tf32": None,
        "gradient_checkpointing": device.cuda if checkpointing == "auto" else checkpointing,
        "gradient_checkpointing_kwargs": None,  # not reentrant, since transformers 5
        "torch_compile": False,
        "use_liger_kernel": False,
        "use_cpu": not device.cuda,
        "seed": training.seed,
        "data_seed": training.seed,
        "full_determinism": False,
        "train_sampling_strategy": "group_by_length" if groups(spec) else "random",
        "length_column_name": "length",
        "dataloader_drop_last": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device.cuda,
        "remove_unused_columns": True,
        "logging_strategy": "steps",
        "logging_steps": training.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "eval_strategy": "steps" if evaluates and training.eval_steps else "no",
        "eval_steps": training.eval_steps,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "save_total_limit": training.save_total_limit,
        "save_only_model": False,
        "load_best_model_at_end": False,
        "report_to": "tensorboard",
        "push_to_hub": False,
        "disable_tqdm": True,
        "max_length": training.max_length,
        "packing": training.packing,
        "packing_strategy": "bfd",
        "eval_packing": False,
        "padding_free": False,
        "pad_to_multiple_of": None,
        "shuffle_dataset": False,
        "dataset_num_proc": None,
        "dataset_kwargs": None,
        "completion_only_loss": False,  # labels carry the mask already, see tokenization.py
        "assistant_only_loss": False,
        "loss_type": "nll",
        "activation_offloading": False,
        "eos_token": None,
        "pad_token": None,
    }
    return {**explicit, **spec.trainer_args}


def refuse_owned(spec: RunSpec) -> None:
    """Refuse a trainer argument that the spec has a key for: two ways to say it could disagree."""
    for name in spec.trainer_args:
        if name in OWNERS:
            raise SpecError(f"trainer_args.{name} has a key of its own", f"Set {OWNERS[name]}")


def groups(spec: RunSpec) -> bool:
    """Whether batches are made of rows of like length; packed rows are of one length already."""
    return spec.training.group_by_length and not spec.training.packing
