"""The trainer's arguments, all of them explicit.

Unsloth changes many of TRL's defaults (learning rate, batch size, optimizer, warm-up, seed, ...),
so with the backends' defaults the same spec would have two meanings. The arguments that users may
not set are in :mod:`aligntune.spec.trainer_args`.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligntune.errors import SpecError
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.suggest import nearest
from aligntune.spec.trainer_args import (
    checkpoints_gradients,
    eval_steps,
    groups,
    refuse_owned,
    save_steps,
    unchanged,
)
from aligntune.worker.backend import Backend
from aligntune.worker.device import Device

if TYPE_CHECKING:
    from aligntune.worker.families import Family


def trainer_arguments(
    spec: RunSpec,
    kind: Family,
    device: Device,
    checkpoints: Path,
    evaluates: bool,
    max_length: int | None,
    rows: int | None = None,
) -> dict[str, Any]:
    """Keyword arguments for the trainer's configuration, which may have only some of them.

    Args:
        spec: the request.
        kind: the family of its algorithm.
        device: the device that training runs on.
        checkpoints: folder for checkpoints.
        evaluates: whether there are evaluation rows.
        max_length: rows are cut to this many tokens.
        rows: sequences of the training data, if that limits a step (see ``accumulation``).

    Raises:
        SpecError: ``trainer_args`` has an argument that users may not set.
    """
    refuse_owned(spec)
    training = spec.training
    best, more_is_better = kind.BEST
    explicit = {
        "output_dir": str(checkpoints),
        # TRL requires whole groups here, although our evaluation does not use them.
        "per_device_eval_batch_size": spec.rl.num_generations
        if spec.row.grouped
        else training.batch_size,
        "gradient_accumulation_steps": training.accumulation(rows),
        "max_steps": training.max_steps or -1,
        "lr_scheduler_kwargs": None,
        "warmup_steps": training.warmup if training.warmup < 1 else int(training.warmup),
        "optim_args": None,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
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
        "data_seed": training.seed,
        "full_determinism": False,
        "train_sampling_strategy": "group_by_length" if groups(spec) else "random",
        "length_column_name": "length",
        "dataloader_drop_last": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device.cuda,
        "remove_unused_columns": True,
        "logging_strategy": "steps",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "eval_strategy": "steps" if evaluates and training.eval_steps else "no",
        "eval_steps": eval_steps(spec),
        "save_strategy": "steps",
        "save_steps": save_steps(spec),
        "save_only_model": False,
        "report_to": "tensorboard",
        "push_to_hub": False,
        "disable_tqdm": True,
        # transformers compares the figure of each evaluation, and fails if it has no value.
        "metric_for_best_model": best if training.keep_best else None,
        "greater_is_better": more_is_better,
        "model_init_kwargs": None,
        "router_aux_loss_coef": None,
        "dataset_num_proc": None,
    }
    own = kind.arguments(spec, max_length)
    return {**explicit, **unchanged(spec), **own, **spec.row.implies, **spec.trainer_args}


def accepted_arguments(
    arguments: dict[str, Any], config: type[Any], spec: RunSpec, backend: Backend
) -> dict[str, Any]:
    """The backend's version of ``arguments``, limited to those that ``config`` has.

    Raises:
        SpecError: the user set an argument that ``config`` does not have.
    """
    own = {
        name: value
        for name, value in spec.of_backend(backend.NAME).items()
        if name not in backend.model_arguments()
    }
    known = {item.name for item in fields(config)}
    for section, given in (("trainer_args", spec.trainer_args), (backend.NAME, own)):
        for name in given:
            if name not in known:
                raise SpecError(
                    f"{section}.{name}: {config.__name__} has no such argument"
                    f"{nearest(name, sorted(known))}"
                )
    adapted = backend.trainer_arguments(spec, arguments) | own
    return {name: value for name, value in adapted.items() if name in known}
