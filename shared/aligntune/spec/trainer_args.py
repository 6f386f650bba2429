"""What a request means for the trainer's arguments, as far as the host has to know.

The host refuses the arguments in :func:`owners` and :data:`REFUSED` before anything starts. A key
of the spec declares the trainer arguments that it sets (:class:`aligntune.spec.sections.Sets`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel

from aligntune.algorithms import RESTRICTED, Algorithm
from aligntune.errors import SpecError
from aligntune.spec.run_spec import OPTIONAL_SECTIONS, RunSpec
from aligntune.spec.sections import Sets

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


def owners(row: Algorithm) -> dict[str, str]:
    """Trainer argument -> the key of the spec that sets it for this algorithm."""
    return {
        name: marker.key or key
        for key, marker in _marked_keys(RunSpec, "")
        for name in marker.arguments
        if _applies(key, row)
    }


def _marked_keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Sets]]:
    """Each dotted key that sets trainer arguments, with what it sets."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _marked_keys(section, f"{prefix}{name}.")
        for marker in field.metadata:
            if isinstance(marker, Sets):
                yield prefix + name, marker


def _applies(key: str, row: Algorithm) -> bool:
    section = key.partition(".")[0]
    if section in OPTIONAL_SECTIONS and section not in row.sections:
        return False
    return key in row.keys or key not in RESTRICTED


def rounds(spec: RunSpec) -> int:
    """Optimizer steps between which a run can be gone on with to the same end.

    TRL keeps what was generated out of a checkpoint, so there it is the steps that completions
    last, and checkpoints are written between generations.
    """
    iterations, accumulation = spec.rl.num_iterations, spec.training.gradient_accumulation
    if not spec.row.grouped:
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
    owned = owners(spec.row)
    reasons = {name: reason for reason, names in REFUSED.items() for name in names}
    for section, name in spec.given_arguments:
        key = f"{section}.{name}"
        if section != "trainer_args" and name in SHAPING:
            raise SpecError(f"{key} is not one backend's alone", f"Set trainer_args.{name}")
        if name in ONLINE_ONLY and not spec.row.online:
            raise SpecError(f"{key} is for reinforcement learning", "Leave it out")
        if name == "use_vllm" or name.startswith("vllm_"):
            raise SpecError(f"{key}: no image has vLLM", "Leave it out")
        if name in owned:
            raise SpecError(f"{key} duplicates a key of the spec", f"Set {owned[name]} instead")
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


def longest_row(spec: RunSpec) -> int | None:
    """Tokens that a sequence may have as far as the request goes; None where it sets no end."""
    if not spec.row.online:
        return spec.training.max_length
    prompt, completion = spec.rl.max_prompt_length, spec.rl.max_completion_length
    both = None if prompt is None else prompt + completion
    return min((most for most in (both, spec.training.max_length) if most), default=None)


def checkpoints_gradients(spec: RunSpec, cuda: bool) -> bool:
    """Whether the request checkpoints gradients: ``auto`` does on a GPU."""
    asked = spec.training.gradient_checkpointing
    return cuda if asked == "auto" else asked


def groups(spec: RunSpec) -> bool:
    """Whether batches are made of rows of like length; packed rows are of one length already."""
    return spec.training.group_by_length and not spec.training.packing
