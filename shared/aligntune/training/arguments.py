"""The trainer's arguments, every one of them explicit.

Unsloth changes many of TRL's defaults (learning rate, batch size, optimizer, warm-up, seed, ...),
so a default left to the backend would make the same spec mean two things. Free of torch: the host
refuses what :data:`OWNERS` and :data:`REFUSED` name before anything is started.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.errors import SpecError
from aligntune.spec import GROUPED, RunSpec
from aligntune.training.families import family

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
    "max_seq_length": "training.max_length",
    "max_grad_norm": "training.max_grad_norm",
    "train_sampling_strategy": "training.group_by_length",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "activation_checkpointing": "training.gradient_checkpointing",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "seed": "training.seed",
    "logging_steps": "training.logging_steps",
    "logging_strategy": "training.logging_steps",
    "eval_steps": "training.eval_steps",
    "eval_strategy": "training.eval_steps",
    "save_steps": "training.save_steps",
    "save_strategy": "training.save_steps",
    "save_total_limit": "training.save_total_limit",
    "output_dir": "output",
    "use_cpu": "gpus",
    "trust_remote_code": "model.trust_remote_code",
    "chat_template_path": "model.chat_template",
    "auto_find_batch_size": "training.batch_size",
}
"""Trainer argument -> the spec's own key for it."""

REFUSED = {
    reason: names.split()
    for reason, names in {
        "rows are tokens before the trainer sees them": "dataset_kwargs dataset_num_proc "
        "truncation_mode eval_packing remove_unused_columns label_names length_column_name",
        "the keys of model say how it is loaded": "model_init_kwargs",
        "aligntune-run --resume goes on with a run": "resume_from_checkpoint",
        "the model's own tokenizer_config.json says it": "eos_token pad_token",
        "training has no network": "push_to_hub hub_model_id hub_strategy hub_token "
        "hub_private_repo hub_always_push hub_revision log_completions_hub_repo "
        "trackio_space_id trackio_bucket_id trackio_static_space_id",
        "losses go to events.jsonl and tensorboard/": "report_to run_name project disable_tqdm",
        "what a run does is said by the spec alone": "do_train do_eval do_predict",
        "evaluation is the same mean over tokens on every backend": "prediction_loss_only "
        "bf16_full_eval fp16_full_eval eval_accumulation_steps eval_do_concat_batches "
        "eval_use_gather_object batch_eval_metrics include_for_metrics "
        "per_device_eval_batch_size num_generations_eval num_eval_samples",
        "a stopped run has to be able to go on": "save_only_model enable_jit_checkpoint "
        "restore_callback_states_from_checkpoint",
        "losses and tokens are told as they are": "include_num_input_tokens_seen "
        "logging_nan_inf_filter",
        "a run is one process with one GPU": "deepspeed fsdp fsdp_config parallelism_config "
        "local_rank ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_timeout "
        "ddp_find_unused_parameters ddp_static_graph context_parallel_size "
        "context_parallel_backend context_parallel_rotate_method save_on_each_node "
        "log_on_each_node log_level_replica ds3_gather_for_generation",
        "model.chat_template says how chats are rendered": "chat_template_kwargs",
    }.items()
}
"""Why -> trainer arguments that would be ignored, or would break what the worker promises."""

SHAPING = (
    *("steps_per_generation", "generation_batch_size", "packing_strategy", "padding_free"),
    *("load_best_model_at_end", "precompute_ref_log_probs"),
)
"""Arguments that more than the trainer goes by, and so have one place to be said."""

ONLINE_ONLY = ("vllm_sampling_params", "unsloth_grpo_mini_batch")
"""Arguments that Unsloth adds to every trainer, and that only online ones read."""


@dataclass(frozen=True)
class Device:
    """What the worker trains on: ``precision`` is bf16, fp16 or fp32, resolved."""

    cuda: bool
    precision: str

    @property
    def name(self) -> str:
        return "GPU" if self.cuda else "CPU"


def trainer_arguments(
    spec: RunSpec, device: Device, checkpoints: Path, evaluates: bool, max_length: int | None
) -> dict[str, Any]:
    """Keyword arguments of the trainer's configuration; it may know only some of them.

    Args:
        spec: the request.
        device: what training runs on.
        checkpoints: folder for checkpoints.
        evaluates: whether there are evaluation rows.
        max_length: tokens that rows are cut to.

    Raises:
        SpecError: ``trainer_args`` names an argument that is not the user's to set.
    """
    refuse_owned(spec)
    training = spec.training
    best, more_is_better = family(spec.row).BEST
    explicit = {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": training.batch_size,
        # TRL wants whole groups, though our evaluation needs none.
        "per_device_eval_batch_size": spec.rl.num_generations
        if spec.row.trainer in GROUPED
        else training.batch_size,
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
        "gradient_checkpointing": checkpoints_gradients(spec, device.cuda),
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
        "save_steps": save_steps(spec),
        "save_total_limit": training.save_total_limit,
        "save_only_model": False,
        "load_best_model_at_end": False,
        "report_to": "tensorboard",
        "push_to_hub": False,
        "disable_tqdm": True,
        "metric_for_best_model": best,
        "greater_is_better": more_is_better,
        "model_init_kwargs": None,
        "router_aux_loss_coef": None,
        "trust_remote_code": spec.model.trust_remote_code,
        "dataset_num_proc": None,
    }
    own = family(spec.row).arguments(spec, max_length)
    return {**explicit, **own, **spec.row.implies, **spec.trainer_args}


def rounds(spec: RunSpec) -> int:
    """Optimizer steps between which a run can be gone on with to the same end.

    TRL keeps what was generated out of a checkpoint, so there it is the steps that completions
    last, and checkpoints are written between generations.
    """
    iterations, accumulation = spec.rl.num_iterations, spec.training.gradient_accumulation
    if spec.row.trainer not in GROUPED:
        return 1
    batches = int(spec.trainer_args.get("steps_per_generation") or accumulation)
    whole = spec.trainer_args.get("generation_batch_size")
    if whole:
        batches = max(int(whole) // spec.training.batch_size, 1)
    return math.lcm(batches * iterations, accumulation) // accumulation


def save_steps(spec: RunSpec) -> int:
    """Steps between checkpoints: what was asked for, up to where a run can be gone on with; and
    where the best one is to be told, where it is evaluated too.
    """
    step = rounds(spec)
    if spec.trainer_args.get("load_best_model_at_end") and spec.training.eval_steps:
        step = math.lcm(step, spec.training.eval_steps)
    return math.ceil(spec.training.save_steps / step) * step


def refuse_owned(spec: RunSpec) -> None:
    """Refuse a trainer argument that the spec has a key for, as two ways to say it could disagree;
    and one that the worker does not let reach anything.
    """
    owners = {**OWNERS, **family(spec.row).OWNERS}
    reasons = {name: reason for reason, names in REFUSED.items() for name in names}
    for section, name in spec.given_arguments:
        key = f"{section}.{name}"
        if section != "trainer_args" and name in SHAPING:
            raise SpecError(f"{key} is not one backend's alone", f"Set trainer_args.{name}")
        if name in ONLINE_ONLY and spec.row.family != "online":
            raise SpecError(f"{key} is for reinforcement learning", "Leave it out")
        if name == "use_vllm" or name.startswith("vllm_"):
            raise SpecError(f"{key}: no image has vLLM", "Leave it out")
        if name in owners:
            raise SpecError(f"{key} has a key of its own", f"Set {owners[name]}")
        if name in spec.row.implies:
            raise SpecError(
                f"{key} is what makes it {spec.algorithm}",
                "Choose with --algo, or leave it out",
            )
        if name in reasons:
            raise SpecError(f"{key} cannot be set: {reasons[name]}", "Leave it out")
    if spec.trainer_args.get("load_best_model_at_end") and not spec.training.eval_steps:
        raise SpecError(
            "trainer_args.load_best_model_at_end needs evaluations to choose by",
            "Set training.eval_steps, and training.save_steps to a multiple of it",
        )


def checkpoints_gradients(spec: RunSpec, cuda: bool) -> bool:
    """Whether the request checkpoints gradients: ``auto`` does on a GPU."""
    asked = spec.training.gradient_checkpointing
    return cuda if asked == "auto" else asked


def groups(spec: RunSpec) -> bool:
    """Whether batches are made of rows of like length; packed rows are of one length already."""
    return spec.training.group_by_length and not spec.training.packing
