"""From words to a RunSpec: what wins, what is refused and how it is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.helpers.specs import NEEDED, spec_of

from aligntune.errors import DataError, ModelError, SpecError
from aligntune.spec.layers import Layer, from_assignment, from_environment, from_file, nested
from aligntune.spec.resolve import known_keys, resolve


def config(folder: Path, text: str) -> Layer:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return from_file(path)


# --- precedence


def test_each_of_the_five_sources_beats_those_before_it_and_is_remembered(tmp_path: Path) -> None:
    file = config(tmp_path, "training: {epochs: 1, batch_size: 1, max_length: 1, seed: 1}")
    environment = from_environment(
        {
            "ALIGNTUNE_TRAINING__BATCH_SIZE": "2",
            "ALIGNTUNE_TRAINING__MAX_LENGTH": "2",
            "ALIGNTUNE_TRAINING__SEED": "2",
        }
    )
    command_line = Layer("--max-length", nested("training.max_length", 3))
    assignment = from_assignment("training.seed=3")
    argument = Layer("argument seed", nested("training.seed", 4))
    settings = resolve(
        [Layer("test", NEEDED), file, *environment, command_line, assignment, argument]
    )
    training, origins = settings.spec.training, settings.origins
    assert training.save_steps == 500, "the default"
    assert "training.save_steps" not in origins
    assert (training.epochs, origins["training.epochs"]) == (1, str(tmp_path / "config.yaml"))
    assert (training.batch_size, origins["training.batch_size"]) == (
        2,
        "$ALIGNTUNE_TRAINING__BATCH_SIZE",
    )
    assert (training.max_length, origins["training.max_length"]) == (3, "--max-length")
    assert (training.seed, origins["training.seed"]) == (4, "argument seed")


def test_a_later_file_beats_an_earlier_one_key_by_key() -> None:
    first = Layer("a.yaml", {"training": {"epochs": 1, "seed": 1}})
    second = Layer("b.yaml", {"training": {"seed": 2}})
    training = resolve([Layer("test", NEEDED), first, second]).spec.training
    assert (training.epochs, training.seed) == (1, 2)


def test_a_set_assignment_beats_a_file_within_free_form_sections() -> None:
    spec = spec_of("trainer_args.b=3", trainer_args={"a": 1, "b": 2})
    assert spec.trainer_args == {"a": 1, "b": 3}


# --- unknown keys


@pytest.mark.parametrize(
    ("layer", "key", "near"),
    [
        (Layer("a.yaml", {"traning": {"epochs": 1}}), "traning", None),
        (Layer("a.yaml", {"training": {"epoch": 1}}), "training.epoch", "training.epochs"),
        (Layer("a.yaml", {"epochs": 1}), "epochs", "training.epochs"),
        (Layer("--set", nested("model.dtyp", "x")), "model.dtyp", "model.dtype"),
        (Layer("a.yaml", {"bakend": "trl"}), "bakend", "backend"),
        (Layer("a.yaml", {"zzzzzz": 1}), "zzzzzz", None),
    ],
)
def test_an_unknown_key_is_refused_with_its_source_and_the_nearest_known_one(
    layer: Layer, key: str, near: str | None
) -> None:
    with pytest.raises(SpecError) as refused:
        resolve([Layer("test", NEEDED), layer])
    message = str(refused.value)
    assert f"unknown key {key!r} (from {layer.origin})" in message
    if near is not None:
        assert f"did you mean {near!r}?" in message
    else:
        assert "zzzzzz" not in key or "did you mean" not in message


def test_an_unknown_environment_variable_is_refused_by_its_own_name() -> None:
    with pytest.raises(SpecError, match=r"\$ALIGNTUNE_TRAINING__EPOCS.*training\.epochs"):
        resolve([Layer("test", NEEDED), *from_environment({"ALIGNTUNE_TRAINING__EPOCS": "1"})])


def test_variables_that_configure_the_program_are_not_settings() -> None:
    assert not list(from_environment({"ALIGNTUNE_CACHE_DIR": "/x", "ALIGNTUNE_INPUT_ROOT": "/in"}))
    assert not list(from_environment({"HOME": "/x", "HF_TOKEN": "secret"}))


def test_a_section_given_as_a_value_is_refused() -> None:
    with pytest.raises(SpecError, match=r"training \(from a.yaml\) is a section of keys, not 3"):
        resolve([Layer("test", NEEDED), Layer("a.yaml", {"training": 3})])


def test_a_section_whose_lines_are_all_commented_out_says_nothing(tmp_path: Path) -> None:
    layer = config(tmp_path, "training:\n  # epochs: 3\n")
    assert resolve([Layer("test", NEEDED), layer]).spec == spec_of()


def test_free_form_sections_take_any_key_and_others_do_not() -> None:
    assert spec_of("trainer_args.anything=1").trainer_args == {"anything": 1}
    assert spec_of("dataset.columns.prompt=question").dataset.columns == {"prompt": "question"}
    with pytest.raises(SpecError, match=r"adapter\.anything"):
        spec_of("adapter.anything=1")


def test_a_column_mapping_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(SpecError, match=r"no column 'question'.*prompt.*messages"):
        spec_of("dataset.columns.question=prompt")


# --- forms


def test_model_and_dataset_may_be_given_by_name_alone() -> None:
    short = resolve([Layer("a", NEEDED)]).spec
    long = {**NEEDED, "model": {"name": "org/model"}, "dataset": {"name": "org/data"}}
    assert short == resolve([Layer("a", long)]).spec


def test_a_name_alone_keeps_the_other_keys_of_its_section() -> None:
    layers = [Layer("a", {**NEEDED, "model": {"name": "a", "revision": "v1"}})]
    model = resolve([*layers, Layer("--model", {"model": "b"})]).spec.model
    assert (model.name, model.revision) == ("b", "v1")


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4"])
def test_numbers_are_written_as_in_yaml_1_2(text: str, tmp_path: Path) -> None:
    layer = config(tmp_path, f"training: {{learning_rate: {text}}}")
    assert resolve([Layer("test", NEEDED), layer]).spec.training.learning_rate == 1e-4
    assert spec_of(f"training.learning_rate={text}").training.learning_rate == 1e-4
    variable = from_environment({"ALIGNTUNE_TRAINING__LEARNING_RATE": text})
    assert resolve([Layer("test", NEEDED), *variable]).spec.training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("model.revision", "123e4567"),
        ("model.revision", "1234567"),
        ("dataset.config", "no"),
        ("dataset.config", "2023-01-01"),
        ("dataset.split", "train[:10%]"),
        ("dataset.system_prompt", "Answer: be #1, or [do not]"),
        ("memory", "1024"),
        ("gpus", "2"),
        ("gpus", "0,1"),
        ("model", "12345"),
    ],
)
def test_where_a_key_takes_text_what_is_assigned_is_text(key: str, text: str) -> None:
    variable = f"ALIGNTUNE_{key.upper().replace('.', '__')}"
    for layers in ([from_assignment(f"{key}={text}")], list(from_environment({variable: text}))):
        value: Any = resolve([Layer("test", NEEDED), *layers]).spec.model_dump()
        for part in key.split("."):
            value = value[part]
        assert (value["name"] if key == "model" else value) == text


def test_null_takes_a_value_away_and_quotes_are_yaml_s() -> None:
    assert spec_of("training.max_length=null").training.max_length is None
    assert spec_of("dataset.system_prompt=null").dataset.system_prompt is None
    assert spec_of("dataset.system_prompt='null'").dataset.system_prompt == "null"


@pytest.mark.parametrize("text", ["9999-99-99", "[1, 2", "a: b: c"])
def test_what_only_looks_like_yaml_is_text(text: str) -> None:
    assert spec_of(f"trainer_args.x={text}").trainer_args == {"x": text}


def test_lists_and_mappings_can_be_assigned() -> None:
    assert spec_of("adapter.targets=[q_proj, v_proj]").adapter.targets == ["q_proj", "v_proj"]
    assert spec_of("dataset.columns={prompt: q}").dataset.columns == {"prompt": "q"}


@pytest.mark.parametrize("text", ["training.epochs", "=3", ""])
def test_an_assignment_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"not of the form section\.key=value"):
        from_assignment(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nseed: 2\n", r"line 2: the key 'seed' appears twice"),
        ("training:\n  seed: 1\n  seed: 2\n", r"line 3: the key 'seed' appears twice"),
        ("training: {seed: 1\n", r"line 2: "),
        ("[1, 2]: 3\n", r"line 1: a key is not text"),
        ("- a\n- b\n", r"contains a list"),
        ("hello", r"contains a str"),
        ("output: 2026-13-45\n", r"month must be"),
        ("a: !!python/name:os.system\n", r"python/name"),
    ],
)
def test_a_config_file_that_is_not_keys_and_values_is_refused(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=says):
        config(tmp_path, text)


def test_a_config_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        from_file(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="Is a directory"):
        from_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"output: caf\xe9\n")
    with pytest.raises(SpecError, match="not UTF-8"):
        from_file(tmp_path / "latin.yaml")


def test_yaml_merges_work_and_may_replace_what_they_merge(tmp_path: Path) -> None:
    text = "model: {name: a, revision: v1}\nadapter: &a {rank: 4, alpha: 8}\n"
    layer = config(tmp_path, text + "trainer_args: {<<: *a, rank: 5}\n")
    assert layer.values["trainer_args"] == {"rank": 5, "alpha": 8}


def test_an_empty_config_file_says_nothing(tmp_path: Path) -> None:
    assert config(tmp_path, "# nothing\n").values == {}


# --- local paths


def test_existing_paths_become_absolute_and_hub_ids_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "data.jsonl").touch()
    values = {**NEEDED, "model": "model", "dataset": "./data.jsonl", "output": "out"}
    spec = resolve([Layer("test", values)], tmp_path).spec
    assert spec.model.name == str(tmp_path / "model")
    assert spec.dataset.name == str(tmp_path / "data.jsonl")
    assert spec.output == str(tmp_path / "out")
    spec = resolve([Layer("test", NEEDED)], tmp_path).spec
    assert (spec.model.name, spec.dataset.name) == ("org/model", "org/data")


def test_without_a_base_folder_names_are_left_as_they_are() -> None:
    assert resolve([Layer("test", {**NEEDED, "model": "/not/here"})]).spec.model.name == "/not/here"


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("model", "./none", ModelError),
        ("model", "/none/here", ModelError),
        ("model", "a/b/c", ModelError),
        ("model", "~nobody-of-this-name/model", ModelError),
        ("model", "x" * 300 + "/", ModelError),
        ("dataset", "none.jsonl", DataError),
        ("dataset", "none.parquet", DataError),
        ("dataset.eval_name", "none.csv", DataError),
        ("adapter.path", "./none", ModelError),
        ("model.chat_template", "none.jinja", SpecError),
    ],
)
def test_a_path_that_is_not_there_is_named_with_the_place_that_was_looked_at(
    key: str, value: str, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error) as refused:
        resolve([Layer("test", NEEDED), Layer("test", nested(key, value))], tmp_path)
    assert value in str(refused.value)
    assert "Looked for " in str(refused.value)


@pytest.mark.usefixtures("closed", "ordinary_user")
def test_a_path_below_an_unreadable_folder_is_not_there(closed: Path) -> None:
    with pytest.raises(PermissionError):
        os.stat(closed / "model")
    with pytest.raises(ModelError, match="no such model"):
        resolve([Layer("test", {**NEEDED, "model": "./closed/model"})], closed.parent)


# --- what is needed, what is derived, what is in range


def test_everything_that_is_missing_is_named_at_once_in_the_users_words() -> None:
    with pytest.raises(SpecError, match=r"missing --algo, --model, --dataset"):
        resolve([])
    with pytest.raises(SpecError, match=r"missing --dataset\."):
        resolve([Layer("test", {"algorithm": "sft", "model": "m"})])
    with pytest.raises(SpecError, match=r"missing --model\."):
        resolve([Layer("test", {**NEEDED, "model": None})])


def test_full_fine_tuning_is_the_default_and_has_its_own_learning_rate() -> None:
    spec = spec_of()
    assert (spec.adapter.type, spec.training.learning_rate) == ("none", 2e-5)


@pytest.mark.parametrize(
    "assignment",
    ["model.quantization=4bit", "model.quantization=8bit", "adapter.rank=4", "adapter.type=lora"],
)
def test_quantization_or_a_rank_implies_an_adapter_and_its_learning_rate(assignment: str) -> None:
    spec = spec_of(assignment)
    assert (spec.adapter.type, spec.training.learning_rate) == ("lora", 2e-4)


def test_a_given_learning_rate_is_kept_under_an_adapter() -> None:
    spec = spec_of("adapter.rank=4", "training.learning_rate=0.5")
    assert spec.training.learning_rate == 0.5


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["model.quantization=4bit", "adapter.type=none"], "needs an adapter"),
        (["adapter.type=none", "adapter.path=org/adapter"], "adapter.path needs"),
        (["dataset.validation_fraction=0.1", "dataset.eval_split=test"], "cannot be combined with"),
        (["adapter.path=org/adapter", "adapter.rank=8"], "adapter.rank has no effect"),
        (["adapter.type=none", "adapter.dora=true"], "adapter.dora has no effect"),
        (["model.name=/m", "model.revision=v1"], "model.revision applies only to a hub id"),
        (
            ["dataset.name=/d.jsonl", "dataset.revision=v1"],
            "dataset.revision applies only to a hub id",
        ),
        (["dataset.name=/d.jsonl", "dataset.config=en"], "dataset.config applies only to a hub id"),
        (
            ["dataset.name=/d", "training.eval_steps=10"],
            "training.eval_steps needs evaluation data",
        ),
        (["training.epochs=0"], "training.epochs"),
        (["training.epochs=-1"], "greater than 0"),
        (["training.epochs=.inf"], "finite"),
        (["training.learning_rate=.nan"], "training.learning_rate"),
        (["training.learning_rate=-1e-4"], "training.learning_rate"),
        (["training.batch_size=0"], "training.batch_size"),
        (["training.batch_size=1.5"], "training.batch_size"),
        (["training.max_steps=many"], "not 'many'"),
        (["training.seed=-1"], "training.seed"),
        (["dataset.validation_fraction=1"], "dataset.validation_fraction"),
        (["adapter.dropout=1"], "adapter.dropout"),
        (["adapter.rank=0"], "adapter.rank"),
        (["adapter.targets=q_proj"], "adapter.targets"),
        (["model.dtype=float64"], "model.dtype"),
        (["model.quantization=2bit"], "model.quantization"),
        (["backend=jax"], "'auto', 'trl' or 'unsloth'"),
        (["gpus=two"], "gpus"),
        (["gpus=-1"], "gpus"),
        (["memory=lots"], "memory"),
        (["trainer_args.a=.inf"], "may contain only text, finite numbers"),
        (["trainer_args.a=2026-01-01"], "may contain only text, finite numbers"),
        (["algorithm=sfd"], "unknown algorithm 'sfd'; known: sft"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key_and_source(
    assignments: list[str], says: str
) -> None:
    with pytest.raises(SpecError) as refused:
        spec_of(*assignments)
    message = str(refused.value)
    assert says in message
    assert "\n" not in message
    if len(assignments) == 1 and "trainer_args" not in assignments[0]:
        key = assignments[0].partition("=")[0]
        assert f"{key} (from --set {key})" in message


def test_a_spec_cannot_be_changed() -> None:
    spec = spec_of()
    with pytest.raises(ValidationError):
        spec.backend = "trl"
    with pytest.raises(ValidationError):
        spec.training.epochs = 1


def test_known_keys_are_exactly_what_a_spec_holds() -> None:
    values = spec_of().model_dump()
    held = [
        f"{section}.{name}"
        for section in ("model", "dataset", "training", "adapter", "preference", "rl", "ppo")
        for name in values[section]
    ] + [name for name, value in values.items() if not isinstance(value, dict) or not value]
    assert sorted(known_keys()) == sorted(held)
