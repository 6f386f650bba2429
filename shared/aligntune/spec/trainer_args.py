"""What a request means for the trainer's arguments, as far as the host needs to know it.

The host refuses the arguments in :func:`owners` and :data:`REFUSED` before anything starts. A key
of the spec declares the trainer arguments that it sets (:class:`aligntune.spec.sections.Sets`).
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

from aligntune.algorithms import RESTRICTED, Algorithm
from aligntune.errors import SpecError
from aligntune.spec.fields import marked_keys
from aligntune.spec.run_spec import OPTIONAL_SECTIONS, RunSpec
from aligntune.spec.sections import Sets

REFUSED = {
    reason: names.split()
    for reason, names in {
        "the worker tokenizes rows before the trainer sees them": "dataset_kwargs dataset_num_proc "
        "truncation_mode eval_packing remove_unused_columns label_names length_column_name",
        "the keys of model control how it is loaded": "model_init_kwargs",
        "aligntune-run --resume resumes a run": "resume_from_checkpoint",
        "the model's tokenizer_config.json sets it": "pad_token",
        "training has no network": "push_to_hub hub_model_id hub_strategy hub_token "
        "hub_private_repo hub_always_push hub_revision log_completions_hub_repo "
        "trackio_space_id trackio_bucket_id trackio_static_space_id",
        "losses are written to events.jsonl and tensorboard/": "report_to run_name project "
        "disable_tqdm",
        "the spec alone determines what a run does": "do_train do_eval do_predict",
        "evaluation is the same mean over tokens on every backend": "prediction_loss_only "
        "bf16_full_eval fp16_full_eval eval_accumulation_steps eval_do_concat_batches "
        "eval_use_gather_object batch_eval_metrics include_for_metrics "
        "per_device_eval_batch_size num_generations_eval num_eval_samples",
        "a stopped run must be resumable": "save_only_model enable_jit_checkpoint "
        "restore_callback_states_from_checkpoint",
        "losses and tokens are reported unchanged": "include_num_input_tokens_seen "
        "logging_nan_inf_filter",
        "a run uses one process and one GPU": "deepspeed fsdp fsdp_config parallelism_config "
        "local_rank ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_timeout "
        "ddp_find_unused_parameters ddp_static_graph context_parallel_size "
        "context_parallel_backend context_parallel_rotate_method save_on_each_node "
        "log_on_each_node log_level_replica ds3_gather_for_generation",
    }.items()
}
"""Reason -> trainer arguments that would be ignored, or would break a guarantee of the worker."""

SHAPING = (
    *("steps_per_generation", "generation_batch_size", "packing_strategy", "padding_free"),
    "precompute_ref_log_probs",
)
"""Arguments that also change how the worker plans a run, so they belong in ``trainer_args``."""

ONLINE_ONLY = ("vllm_sampling_params", "unsloth_grpo_mini_batch")
"""Arguments that Unsloth adds to every trainer, but that only online trainers read."""


def owners(row: Algorithm) -> dict[str, str]:
    """Trainer argument -> the key of the spec that sets it for this algorithm."""
    return {
        name: marker.key or key
        for key, marker in marked_keys(Sets)
        for name in marker.arguments
        if _applies(key, row)
    }


def unchanged(spec: RunSpec) -> dict[str, Any]:
    """The trainer arguments that get the value of a key as it is."""
    return {
        mark.arguments[0]: reduce(getattr, key.split("."), spec)
        for key, mark in marked_keys(Sets)
        if mark.unchanged and _applies(key, spec.row)
    }


def _applies(key: str, row: Algorithm) -> bool:
    section = key.partition(".")[0]
    if section in OPTIONAL_SECTIONS and section not in row.sections:
        return False
    return key in row.keys or key not in RESTRICTED


def rounds(spec: RunSpec) -> int:
    """A run can be resumed exactly at every step that is a multiple of this.

    TRL does not save completions in checkpoints. So for its online trainers this is the number of
    steps per generation, and checkpoints are written between generations.
    """
    iterations, accumulation = spec.rl.num_iterations, spec.training.accumulation()
    if not spec.row.grouped:
        return 1
    batches = int(spec.trainer_args.get("steps_per_generation") or accumulation)
    whole = spec.trainer_args.get("generation_batch_size")
    if whole:
        batches = max(int(whole) // spec.training.batch_size, 1)
    return math.lcm(batches * iterations, accumulation) // accumulation


def save_steps(spec: RunSpec) -> int:
    """Steps between checkpoints: as requested, rounded up to a step that a run can resume from, and
    to a step with an evaluation if the best checkpoint is kept.
    """
    every = eval_steps(spec) if spec.training.keep_best else None
    return _rounded(spec.training.save_steps, math.lcm(rounds(spec), every or 1))


def eval_steps(spec: RunSpec) -> int | None:
    """Steps between evaluations: as requested, rounded up to a step that a run can resume from if
    the best checkpoint is kept. None evaluates only at the end.
    """
    every = spec.training.eval_steps
    return _rounded(every, rounds(spec)) if every and spec.training.keep_best else every


def _rounded(steps: int, multiple: int) -> int:
    return math.ceil(steps / multiple) * multiple


def refuse_owned(spec: RunSpec) -> None:
    """Refuse trainer arguments that a key of the spec sets, because the two could disagree, and
    arguments that would have no effect.
    """
    owned = owners(spec.row)
    reasons = {name: reason for reason, names in REFUSED.items() for name in names}
    for section, name in spec.given_arguments:
        key = f"{section}.{name}"
        if section != "trainer_args" and name in SHAPING:
            raise SpecError(f"{key} applies to every backend", f"Set trainer_args.{name} instead")
        if name in ONLINE_ONLY and not spec.row.online:
            raise SpecError(f"{key} applies only to online algorithms", "Remove it")
        if name == "use_vllm" or name.startswith("vllm_"):
            raise SpecError(f"{key}: the images do not contain vLLM", "Remove it")
        if name in owned:
            raise SpecError(f"{key} duplicates a key of the spec", f"Set {owned[name]} instead")
        if name in spec.row.implies:
            raise SpecError(
                f"{key} is fixed, because it defines {spec.algorithm}",
                "Remove it, or choose another algorithm with --algo",
            )
        if name in reasons:
            raise SpecError(f"{key} cannot be set: {reasons[name]}", "Remove it")


def longest_row(spec: RunSpec) -> int | None:
    """The longest sequence that the request allows, in tokens; None if it sets no limit."""
    if not spec.row.online:
        return spec.training.max_length
    prompt, completion = spec.rl.max_prompt_length, spec.rl.max_completion_length
    both = None if prompt is None else prompt + completion
    return min((most for most in (both, spec.training.max_length) if most), default=None)


def checkpoints_gradients(spec: RunSpec, cuda: bool) -> bool:
    """Whether the request checkpoints gradients; ``auto`` does on a GPU."""
    asked = spec.training.gradient_checkpointing
    return cuda if asked == "auto" else asked


def groups(spec: RunSpec) -> bool:
    """Whether batches hold rows of similar length; packed rows all have the same length."""
    return spec.training.group_by_length and not spec.training.packing
