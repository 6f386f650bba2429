"""The flags of a run: the key each sets, what overrides it, and how they appear in ``--help``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from tests.helpers.command import run

from aligntune.errors import SpecError
from aligntune.spec.flags import PANELS
from aligntune.spec.resolve import Settings
from aligntune_run.cli.options import FLAGS, parameter, settings, suggest_option

NEEDED = ("--model", "org/model", "--dataset", "org/data")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ALIGNTUNE_TRAINING__WARMUP", "ALIGNTUNE_ADAPTER__ALPHA"):
        monkeypatch.delenv(name, raising=False)


def parse(*words: str, algorithm: str = "sft") -> Settings:
    """The settings that a command line comes to."""
    from aligntune_run.cli.commands.explain import explain

    given = [*NEEDED, "--algo", algorithm, *words]
    values = explain.make_context("explain", given, resilient_parsing=False).params
    values.pop("find_links")
    values.pop("as_json")
    return settings(values.pop("config"), values, values.pop("assignments"))


def value_of(found: Settings, key: str) -> Any:
    value: Any = found.spec
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("algorithm", "words", "key", "value"),
    [
        ("sft", ["--lora-alpha", "64"], "adapter.alpha", 64.0),
        ("sft", ["--lora-target", "all-linear"], "adapter.targets", "all-linear"),
        ("sft", ["--lora-target", "q_proj, v_proj"], "adapter.targets", ["q_proj", "v_proj"]),
        ("sft", ["--grad-accum", "4"], "training.gradient_accumulation", 4),
        ("sft", ["--warmup", "0.03"], "training.warmup", 0.03),
        ("sft", ["--schedule", "cosine"], "training.schedule", "cosine"),
        ("sft", ["--packing"], "training.packing", True),
        ("sft", ["--eval-dataset", "org/eval"], "dataset.eval_name", "org/eval"),
        ("sft", ["--val-fraction", "0.1"], "dataset.validation_fraction", 0.1),
        ("sft", ["--save-steps", "50"], "training.save_steps", 50),
        ("sft", ["--logging-steps", "5"], "training.logging_steps", 5),
        ("sft", ["--system-prompt", "Be brief."], "dataset.system_prompt", "Be brief."),
        ("dpo", ["--beta", "0.3"], "preference.beta", 0.3),
        ("kto", ["--beta", "0.3"], "preference.beta", 0.3),
        ("grpo", ["--beta", "0.3", "--reward", "length"], "rl.beta", 0.3),
        ("ppo", ["--beta", "0.3", "--reward", "length"], "rl.beta", 0.3),
        ("grpo", ["--temperature", "0.7", "--reward", "length"], "rl.temperature", 0.7),
    ],
)
def test_a_flag_sets_its_key(algorithm: str, words: list[str], key: str, value: Any) -> None:
    found = parse(*words, algorithm=algorithm)
    assert value_of(found, key) == value
    assert found.origins[key] == words[0]


def test_lora_alpha_alone_turns_the_adapter_on() -> None:
    assert parse("--lora-alpha", "64").spec.adapter.type == "lora"


def test_a_flag_overrides_files_and_the_environment_but_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "spec.yaml"
    config.write_text("training: {warmup: 10, save_steps: 10}\nadapter: {type: lora, alpha: 1}\n")
    monkeypatch.setenv("ALIGNTUNE_TRAINING__WARMUP", "20")
    monkeypatch.setenv("ALIGNTUNE_ADAPTER__ALPHA", "2")
    words = ["-c", str(config), "--warmup", "30", "--lora-alpha", "3"]
    found = parse(*words, "--set", "adapter.alpha=4")
    training, adapter = found.spec.training, found.spec.adapter
    assert (training.warmup, training.save_steps, adapter.alpha) == (30, 10, 4)


def test_beta_follows_an_algorithm_that_set_names(tmp_path: Path) -> None:
    found = parse("--beta", "0.3", "--set", "algorithm=dpo")
    assert found.spec.preference.beta == 0.3


def test_beta_follows_an_algorithm_that_a_file_names(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("algorithm: dpo\nmodel: org/m\ndataset: org/d\n")
    flags: dict[str, Any] = {parameter(one.flag): None for one in FLAGS} | {"beta": 0.3}
    found = settings((tmp_path / "spec.yaml",), flags, ())
    assert found.spec.preference.beta == 0.3


@pytest.mark.parametrize(
    ("algorithm", "flag", "assignment"),
    [
        ("sft", ["--beta", "0.3"], "rl.beta=0.3"),
        ("sft", ["--temperature", "0.7"], "rl.temperature=0.7"),
        ("dpo", ["--temperature", "0.7"], "rl.temperature=0.7"),
        ("dpo", ["--packing"], "training.packing=true"),
    ],
)
def test_a_flag_the_algorithm_does_not_use_is_refused_like_its_key(
    algorithm: str, flag: list[str], assignment: str
) -> None:
    with pytest.raises(SpecError) as of_flag:
        parse(*flag, algorithm=algorithm)
    with pytest.raises(SpecError) as of_key:
        parse("--set", assignment, algorithm=algorithm)
    assert str(of_flag.value) == str(of_key.value)
    assert assignment.partition("=")[0] in str(of_flag.value)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "command",
    [
        *([], ["explain"], ["status"], ["doctor"], ["evaluate"], ["predict"], ["push"]),
        *(["exec"], ["images"], ["images", "build"], ["images", "list"], ["images", "prune"]),
    ],
)
def test_help_fits_the_screen_and_shows_examples(
    command: list[str], width: int, environment: dict[str, str]
) -> None:
    done = run(*command, "--help", environment=environment | {"COLUMNS": str(width)})
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, lines)) <= width
    assert "[dim]" not in done.stdout
    examples = [line.strip() for line in lines if line.startswith(" $ ")]
    assert 1 <= len(examples) <= 3
    assert all(line.startswith("$ aligntune-run") for line in examples)
    tops = [row for row, line in enumerate(lines) if line.startswith("╭")]
    ends = [row for row, line in enumerate(lines) if line.startswith("╰")]
    assert all(end - top < 24 for top, end in zip(tops, ends, strict=True))


def test_help_shows_the_panels_in_order(environment: dict[str, str]) -> None:
    done = run("--help", environment=environment)
    titles = [line.split("─")[1].strip() for line in done.stdout.splitlines() if line[:1] == "╭"]
    commands = ["Look before you run", "Work with runs", "Images and machine"]
    assert titles == [*commands, *PANELS]


def test_every_option_is_in_a_panel_and_has_help() -> None:
    from aligntune_run.cli.main import cli

    for option in cli.params:
        assert isinstance(option, click.Option)
        assert option.help, option.name
        assert getattr(option, "panel", None) in PANELS, option.name


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--modle", "; did you mean '--model'?"),
        ("--learning-rate", "; did you mean '--lr'?"),
        ("--num_train_epochs", "; did you mean '--epochs'?"),
        ("--lora-r", "; did you mean '--lora-rank'?"),
        ("--load-in-8bit", "; did you mean '--set model.quantization=8bit'?"),
        ("--bf16", "; did you mean '--set training.precision=bf16'?"),
        ("--weight-decay", "; did you mean '--set training.weight_decay=...'?"),
        ("--use-unsloth", "; did you mean '--backend unsloth'?"),
        (
            "--report-to",
            "; a run always writes its losses to events.jsonl and tensorboard/; remove it",
        ),
        ("--zzz", ""),
    ],
)
def test_an_option_of_another_tool_is_answered_with_ours(option: str, says: str) -> None:
    assert suggest_option(option) == says
