"""The table of algorithms: every row is whole, and the spec makes of it what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligntune import algorithms
from aligntune.algorithms import ALGORITHMS, BACKENDS, Algorithm, matrix, takers
from aligntune.data.formats import FORMATS
from aligntune.errors import SpecError
from aligntune.spec.layers import Layer, from_assignment, from_file
from aligntune.spec.resolve import known_keys, resolve
from aligntune.spec.run_spec import OPTIONAL_SECTIONS, RunSpec
from aligntune.spec.trainer_args import rounds
from aligntune.worker.device import Device
from aligntune.worker.families import family
from aligntune.worker.trainer.arguments import trainer_arguments

IMAGES = Path(__file__).parents[2] / "images"
ROWS = list(ALGORITHMS.values())
OFF_POLICY = ("rl.num_iterations=2", "rl.beta=0.1")


def spec_of(algorithm: str, *assignments: str, **values: Any) -> RunSpec:
    given: dict[str, Any] = {"algorithm": algorithm, "model": "org/model", "dataset": "org/data"}
    if ALGORITHMS[algorithm].online:
        given["rewards"] = "length"
    return resolve([Layer("test", given | values), *map(from_assignment, assignments)]).spec


def refusal(algorithm: str, *assignments: str, **values: Any) -> str:
    with pytest.raises(SpecError) as refused:
        spec_of(algorithm, *assignments, **values)
    return str(refused.value)


def arguments(spec: RunSpec) -> dict[str, Any]:
    return trainer_arguments(
        spec, family(spec.row), Device(False, "fp32"), Path("/run"), False, 512
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_names_only_what_there_is(row: Algorithm) -> None:
    assert set(row.formats) <= set(FORMATS)
    assert set(row.sections) <= set(OPTIONAL_SECTIONS)
    assert set(row.keys) <= set(known_keys())
    assert set(row.defaults) <= set(known_keys())
    assert set(row.backends) <= set(BACKENDS)
    assert row.paper.startswith("https://arxiv.org/abs/")
    for name in ("BEST", "PREPARED", "arguments", "encode", "extras", "measure"):
        assert hasattr(family(row), name)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_row_implies_is_an_argument_of_its_trainer_in_each_image(row: Algorithm) -> None:
    for backend in row.backends:
        facts = json.loads((IMAGES / backend / "facts.json").read_text(encoding="utf-8"))
        assert set(row.implies) <= set(facts["trainer_args"][row.config])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_row_implies_reaches_the_trainer_and_is_nobody_s_to_set(row: Algorithm) -> None:
    made = arguments(spec_of(row.name))
    assert {name: made[name] for name in row.implies} == dict(row.implies)
    for name in row.implies:
        with pytest.raises(
            SpecError, match=f"is fixed, because it defines {row.name}|duplicates a key"
        ):
            arguments(spec_of(row.name, f"trainer_args.{name}=1"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_default_of_the_algorithm_yields_to_what_is_given(row: Algorithm) -> None:
    for key, value in row.defaults.items():
        section, name = key.split(".")
        assert getattr(getattr(spec_of(row.name), section), name) == value
        if isinstance(value, float | int):
            given = spec_of(row.name, f"{key}=3")
            assert getattr(getattr(given, section), name) == 3


def test_an_adapter_learns_at_ten_times_the_rate_of_its_algorithm() -> None:
    assert spec_of("dpo").training.learning_rate == pytest.approx(1e-6)
    assert spec_of("dpo", "adapter.rank=4").training.learning_rate == pytest.approx(1e-5)
    assert spec_of("sft", "adapter.rank=4").training.learning_rate == pytest.approx(2e-4)


def test_no_two_algorithms_come_to_the_same_arguments() -> None:
    made = {}
    for row in ROWS:
        spec = spec_of(row.name, *(OFF_POLICY if row.online else ()))
        made[row.name] = (row.trainer, json.dumps(arguments(spec), sort_keys=True, default=str))
    assert len(set(made.values())) == len(ROWS)


def test_the_papers_settings() -> None:
    dapo, dr_grpo, gspo, grpo = (
        arguments(spec_of(name)) for name in ("dapo", "dr_grpo", "gspo", "grpo")
    )
    assert (dapo["loss_type"], dapo["epsilon_high"]) == ("dapo", 0.28)
    assert dapo["mask_truncated_completions"] is True
    assert (dr_grpo["loss_type"], dr_grpo["scale_rewards"]) == ("dr_grpo", "none")
    assert (gspo["loss_type"], gspo["importance_sampling_level"]) == ("grpo", "sequence")
    assert (grpo["loss_type"], grpo["scale_rewards"]) == ("grpo", "group")


def test_every_format_has_its_columns_and_is_read_by_the_data_package() -> None:
    assert set(algorithms.FORMATS) == set(FORMATS)
    for name, known in FORMATS.items():
        assert {column for choice in known.columns for column in choice} <= {
            *algorithms.FORMATS[name]
        }
    for row in ALGORITHMS.values():
        assert set(row.formats) <= set(FORMATS)


def test_takers_are_told_as_the_user_writes_them() -> None:
    assert takers("preference") == "dpo or reward"
    assert takers("text") == "sft"


def test_the_matrix_has_a_line_for_each_row() -> None:
    lines = matrix().splitlines()
    assert len(lines) == len(ROWS) + 2
    assert any("`gspo` | Yes | No |" in line for line in lines)


@pytest.mark.parametrize(
    ("algorithm", "assignments", "values", "says"),
    [
        ("grpo", [], {"rewards": None}, "grpo needs a reward: --reward NAME"),
        (
            "sft",
            [],
            {"rewards": "length"},
            "rewards does not apply to sft, only to ppo, grpo, dapo",
        ),
        ("sft", ["rl.beta=0.1"], {}, "rl.beta does not apply to sft, only to ppo, grpo"),
        ("dpo", ["rl.num_generations=2"], {}, "rl.num_generations does not apply to dpo"),
        ("grpo", ["ppo.lam=0.9"], {}, "ppo.lam does not apply to grpo, only to ppo; remove it"),
        (
            "grpo",
            ["preference.beta=1"],
            {},
            "preference.beta does not apply to grpo, only to dpo, kto",
        ),
        ("kto", ["preference.label_smoothing=0.1"], {}, "does not apply to kto, only to dpo"),
        (
            "dpo",
            ["preference.label_smoothing=0.1", "preference.loss_type=hinge"],
            {},
            "label_smoothing has no effect on preference.loss_type=hinge, only on robust",
        ),
        (
            "dpo",
            ["preference.label_smoothing=0.1"],
            {},
            "no effect on preference.loss_type=sigmoid",
        ),
        ("dpo", ["preference.loss_type=exo_pair"], {}, "needs preference.label_smoothing"),
        ("dpo", ["preference.beta=0"], {}, "Input should be greater than 0"),
        ("kto", ["preference.beta=0"], {}, "Input should be greater than 0"),
        (
            "dpo",
            ["training.packing=true"],
            {},
            "training.packing does not apply to dpo, only to sft",
        ),
        (
            "dpo",
            ["dataset.format=chat"],
            {},
            "dpo does not train on dataset.format=chat; use one of preference",
        ),
        ("grpo", ["training.batch_size=6"], {}, "the 6 completions of a step"),
        ("rloo", ["rl.num_generations=1"], {}, "must be at least 2: rloo compares completions"),
        (
            "ppo",
            ["rl.num_generations=4"],
            {},
            "rl.num_generations does not apply to ppo, only to grpo, dapo",
        ),
        (
            "rloo",
            ["rl.epsilon_high=0.3"],
            {},
            "does not apply to rloo, only to grpo, dapo, dr_grpo, gspo",
        ),
        ("grpo", [], {"rewards": [{"name": "a", "model": "b"}]}, "a name or a model, not both"),
        ("grpo", [], {"rewards": [{}]}, "a name or a model, not both"),
        ("grpo", [], {"rewards": [{"name": "a", "wieght": 2}]}, "did you mean 'weight'?"),
        (
            "grpo",
            [],
            {"rewards": [{"name": "a", "revision": "v1"}]},
            "applies only to a reward model's hub",
        ),
        ("sft", ["rl.bta=0.1"], {}, "unknown key 'rl.bta'"),
        ("dpo", ["dataset.columns.answer=x"], {}, "no column 'answer'"),
    ],
)
def test_what_makes_no_sense_for_an_algorithm_is_refused_with_the_reason(
    algorithm: str, assignments: list[str], values: dict[str, Any], says: str
) -> None:
    assert says in refusal(algorithm, *assignments, **values)


def test_the_best_checkpoint_is_one_that_was_evaluated_between_generations() -> None:
    held_out = ["dataset.eval_name=org/other", "training.eval_steps=3", "training.save_steps=3"]
    best = [*held_out, "training.keep_best=true", "rl.num_iterations=2"]
    made = arguments(spec_of("grpo", *best))
    assert (made["eval_steps"], made["save_steps"]) == (4, 4)
    assert made["metric_for_best_model"] == "reward"


def test_an_adapter_s_dropout_is_not_switched_off_with_the_model_s() -> None:
    with_dropout = spec_of("dpo", "adapter.dropout=0.1", "adapter.rank=4")
    assert arguments(with_dropout)["disable_dropout"] is False
    assert arguments(spec_of("dpo", "adapter.rank=4"))["disable_dropout"] is True


def test_what_many_papers_leave_open_can_be_set() -> None:
    spec = spec_of("grpo", "trainer_args.mask_truncated_completions=true")
    assert arguments(spec)["mask_truncated_completions"] is True
    assert spec_of("dpo", preference={"loss_type": None}).preference.loss_type == "sigmoid"


def test_a_group_may_be_filled_by_accumulation_or_by_a_longer_generation() -> None:
    halves = spec_of("grpo", "training.batch_size=4", "training.gradient_accumulation=2")
    assert halves.rl.num_generations == 8
    spec_of("grpo", "training.batch_size=4", "trainer_args.steps_per_generation=2")


def test_rewards_may_be_one_word_one_mapping_or_a_list() -> None:
    word, mapping, several = (
        spec_of("grpo", rewards=value).rewards
        for value in ("length", {"name": "length", "weight": 2}, ["length", {"model": "org/rm"}])
    )
    assert [reward.name for reward in word] == ["length"]
    assert mapping[0].weight == 2
    assert [(reward.name, reward.model) for reward in several] == [
        ("length", None),
        (None, "org/rm"),
    ]


def test_a_rewards_file_and_models_are_inputs_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def brevity(completions): ...\n")
    layer = Layer(
        "test",
        {
            "algorithm": "grpo",
            "model": "org/model",
            "dataset": "org/data",
            "rewards": ["mine.py:brevity", {"model": "org/rm", "revision": "v1"}],
        },
    )
    spec = resolve([layer], tmp_path).spec
    assert spec.rewards[0].name == f"{tmp_path}/mine.py:brevity"
    assert spec.local_inputs == (f"{tmp_path}/mine.py",)
    assert ("reward", "org/rm", "v1") in spec.repositories
    with pytest.raises(SpecError, match=r"no such file: other\.py"):
        resolve([layer, Layer("test", {"rewards": "other.py:f"})], tmp_path)


@pytest.mark.parametrize(
    ("algorithm", "assignments", "steps"),
    [
        ("sft", [], 1),
        ("grpo", [], 1),
        ("grpo", ["rl.num_iterations=3"], 3),
        ("grpo", ["trainer_args.steps_per_generation=4", "rl.num_iterations=2"], 8),
        (
            "grpo",
            ["trainer_args.steps_per_generation=3", "training.gradient_accumulation=2"],
            3,
        ),
        ("grpo", ["trainer_args.generation_batch_size=32"], 4),
        ("ppo", [], 1),
    ],
)
def test_checkpoints_are_written_between_generations(
    algorithm: str, assignments: list[str], steps: int
) -> None:
    spec = spec_of(algorithm, *assignments, "training.save_steps=10")
    assert rounds(spec) == steps
    assert arguments(spec)["save_steps"] == -(-10 // steps) * steps


@pytest.mark.parametrize("adapter", [False, True])
def test_a_run_named_as_the_model_is_what_came_out_of_it(tmp_path: Path, adapter: bool) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    if adapter:
        shape = {"base_model_name_or_path": "org/base", "revision": None}
        (model / "adapter_config.json").write_text(json.dumps(shape))
    layer = Layer("test", {"algorithm": "dpo", "model": "run", "dataset": "org/data"})
    spec = resolve([layer], tmp_path).spec
    if adapter:
        assert (spec.model.name, spec.adapter.type) == ("org/base", "lora")
        assert spec.adapter.path == str(model)
        assert spec.training.learning_rate == pytest.approx(1e-5)
    else:
        assert spec.model.name == str(model)


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_valid_spec_of_the_algorithm_that_it_is_named_after(path: Path) -> None:
    spec = resolve([from_file(path)]).spec
    assert spec.algorithm == path.stem
    assert arguments(spec)


@pytest.mark.parametrize("algorithm", ["dapo", "dr_grpo", "gspo", "rloo"])
def test_the_example_for_rewards_serves_every_algorithm_that_it_says(algorithm: str) -> None:
    path = next(path for path in EXAMPLES if path.stem == "grpo")
    assert resolve([from_file(path), Layer("test", {"algorithm": algorithm})]).spec
