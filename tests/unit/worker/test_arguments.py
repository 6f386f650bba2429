"""The trainer's arguments: each that an image's trainer takes is set, owned, refused or let be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligntune.algorithms import ALGORITHMS
from aligntune.errors import SpecError
from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import known_keys, resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.trainer_args import REFUSED, owners, refuse_owned
from aligntune.worker.device import Device
from aligntune.worker.families import family
from aligntune.worker.families.supervised import keeps_whole_rows
from aligntune.worker.trainer.arguments import trainer_arguments

IMAGES = Path(__file__).parents[3] / "images"
REASONS = {name: reason for reason, names in REFUSED.items() for name in names}

FREE = {
    *("accelerator_config", "activation_checkpointing_kwargs", "debug", "eval_delay"),
    *("dataloader_in_order", "dataloader_multiprocessing_context"),
    *("dataloader_persistent_workers", "dataloader_prefetch_factor", "eval_on_start"),
    *("greater_is_better", "ignore_data_skip", "liger_kernel_config", "log_level"),
    *("metric_for_best_model", "optim_target_modules", "router_aux_loss_coef"),
    *("skip_memory_metrics", "torch_compile_backend", "torch_compile_mode"),
    *("torch_empty_cache_steps", "unsloth_logit_chunk_multiplier", "unsloth_num_chunks"),
    "use_cache",
    # These only say more of what another argument has switched on.
    *("discopop_tau", "f_alpha_divergence_coef", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    *("entropy_coef_delta", "entropy_coef_max", "entropy_coef_min", "entropy_target"),
    *("sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_neg", "vespo_k_pos"),
    *("vespo_lambda_neg", "vespo_lambda_pos", "log_multimodal", "log_unique_prompts"),
    *("num_completions_to_print", "max_tool_calling_iterations", "unsloth_grpo_mini_batch"),
    *("transformers_continuous_batching_config", "use_transformers_paged"),
    *("critic_learning_rate", "generation_batch_size", "num_eval_samples"),
}
"""Arguments that work as their library says, with a default that is the same on each backend."""


def spec_of(*assignments: str, algorithm: str = "sft") -> RunSpec:
    needed = {"algorithm": algorithm, "model": "org/model", "dataset": "org/data"}
    if ALGORITHMS[algorithm].online:
        needed["rewards"] = "length"
    return resolve([Layer("test", needed), *map(from_assignment, assignments)]).spec


def arguments(
    *assignments: str, algorithm: str = "sft", max_length: int | None = 512
) -> dict[str, Any]:
    device = Device(cuda=False, precision="fp32")
    spec = spec_of(*assignments, algorithm=algorithm)
    return trainer_arguments(spec, family(spec.row), device, Path("/run"), True, max_length)


CELLS = [(backend, row.name) for row in ALGORITHMS.values() for backend in row.backends]


@pytest.mark.parametrize(("backend", "algorithm"), CELLS)
def test_somebody_has_decided_about_every_argument_of_the_image_s_trainer(
    backend: str, algorithm: str
) -> None:
    facts = json.loads((IMAGES / backend / "facts.json").read_text(encoding="utf-8"))
    spec = spec_of(algorithm=algorithm)
    taken = set(facts["trainer_args"][ALGORITHMS[algorithm].config])
    refused = {name for name in taken if _is_refused(name, spec)}
    assert sorted(taken - FREE - refused - set(arguments(algorithm=algorithm))) == []


def _is_refused(name: str, spec: RunSpec) -> bool:
    try:
        refuse_owned(spec.model_copy(update={"trainer_args": {name: 1}}))
    except SpecError:
        return True
    return False


def test_owners_are_keys_and_each_refused_argument_has_one_reason() -> None:
    keys = {*known_keys(), "dataset.columns.text", "rewards[].weight"}
    for row in ALGORITHMS.values():
        assert set(owners(row).values()) <= keys
    assert len(REASONS) == sum(len(names) for names in REFUSED.values())


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        (
            "trainer_args.chat_template_path=x",
            "duplicates a key of the spec. Set model.chat_template instead",
        ),
        ("trainer_args.eval_strategy=epoch", "Set training.eval_steps"),
        (
            "trainer_args.report_to=wandb",
            "losses are written to events.jsonl and tensorboard/. Remove it",
        ),
        ("trainer_args.push_to_hub=true", "push_to_hub cannot be set: training has no network"),
        ("trainer_args.load_best_model_at_end=true", "Set training.keep_best instead"),
        ("trainer_args.per_device_eval_batch_size=3", "is the same mean over tokens on every"),
        (
            "trl.learning_rate=1",
            "trl.learning_rate duplicates a key of the spec. Set training.learning",
        ),
        (
            "unsloth.output_dir=x",
            "unsloth.output_dir duplicates a key of the spec. Set output instead",
        ),
        ("trl.padding_free=true", "applies to every backend. Set trainer_args.padding_free"),
        ("unsloth.vllm_mode=x", "the images do not contain vLLM"),
    ],
)
def test_an_argument_that_is_not_the_user_s_to_set_is_refused_with_why(
    assignment: str, says: str
) -> None:
    with pytest.raises(SpecError) as refused:
        refuse_owned(spec_of(assignment))
    assert says in str(refused.value)


def test_other_arguments_win_over_what_is_passed_explicitly() -> None:
    assert arguments("trainer_args.adam_beta2=0.95")["adam_beta2"] == 0.95


def test_the_trainer_looks_for_the_best_checkpoint_only_if_it_is_kept() -> None:
    held_out = ["training.eval_steps=2", "dataset.eval_name=org/e"]
    kept = arguments("training.keep_best=true", *held_out)
    assert (kept["load_best_model_at_end"], kept["metric_for_best_model"]) == (True, "loss")
    plain = arguments(*held_out)
    assert (plain["load_best_model_at_end"], plain["metric_for_best_model"]) == (False, None)


def test_the_trainer_s_length_is_the_one_that_the_model_can_take() -> None:
    assert arguments()["max_length"] == 512
    assert arguments("trainer_args.padding_free=true")["max_length"] is None
    packed = ["trainer_args.padding_free=true", "training.packing=true"]
    assert arguments(*packed)["max_length"] == 512


@pytest.mark.parametrize(
    ("assignments", "whole"),
    [
        ([], False),
        (["training.packing=true"], False),
        (["training.packing=true", "trainer_args.packing_strategy=bfd_split"], True),
        (["training.packing=true", "trainer_args.packing_strategy=wrapped"], True),
        (["trainer_args.packing_strategy=wrapped"], False),
    ],
)
def test_rows_stay_whole_only_where_packing_splits_them(
    assignments: list[str], whole: bool
) -> None:
    assert keeps_whole_rows(spec_of(*assignments)) is whole


@pytest.mark.parametrize(
    ("algorithm", "argument", "key"),
    [
        ("sft", "packing", "training.packing"),
        ("dpo", "packing", None),
        ("dpo", "beta", "preference.beta"),
        ("grpo", "beta", "rl.beta"),
        ("sft", "beta", None),
        ("grpo", "epsilon_high", "rl.epsilon_high"),
        ("rloo", "epsilon_high", None),
        ("ppo", "reward_weights", "rewards[].weight"),
    ],
)
def test_a_key_owns_trainer_arguments_where_it_applies(
    algorithm: str, argument: str, key: str | None
) -> None:
    assert owners(ALGORITHMS[algorithm]).get(argument) == key
