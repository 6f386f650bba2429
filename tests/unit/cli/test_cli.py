"""The command line as a program: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.command import TRACEBACK, run

from aligntune.algorithms import ALGORITHMS
from aligntune.record.events import EventWriter
from aligntune.spec.fields import marked_keys
from aligntune.spec.flags import Flag
from aligntune_run.cli.options import FLAGS

# --- help


def test_help_names_every_flag_and_every_algorithm(environment: dict[str, str]) -> None:
    done = run("--help", environment=environment)
    assert done.returncode == 0
    assert done.stderr == ""
    for flag in (*(one.flag.name for one in FLAGS), "--set", "--resume", "--dry-run", "--json"):
        assert flag in done.stdout
    for algorithm in ALGORITHMS:
        assert algorithm in done.stdout


def test_the_flags_are_those_that_the_fields_of_the_spec_declare() -> None:
    declared: dict[Flag, tuple[str, ...]] = {}
    for key, flag in marked_keys(Flag):
        declared[flag] = (*declared.get(flag, ()), key)
    assert {one.flag: one.keys for one in FLAGS} == declared
    assert len({one.flag.name for one in FLAGS}) == len(FLAGS)


def imported_by(word: str, environment: dict[str, str]) -> set[str]:
    """The modules that a command imports."""
    code = (
        "import sys\n"
        "from aligntune_run.cli.main import main\n"
        f"sys.argv = ['aligntune-run', {word!r}]\n"
        "assert main() == 0\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(word: str, environment: dict[str, str]) -> None:
    imported = imported_by(word, environment)
    assert not {"pydantic", "docker", "yaml", "torch", "requests", "pynvml"} & imported


def test_help_does_not_look_up_a_version(environment: dict[str, str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "aligntune_run", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert "rich_click" in done.stderr
    assert "importlib.metadata" not in done.stderr


def test_version_imports_no_rich(environment: dict[str, str]) -> None:
    assert "rich.console" not in imported_by("--version", environment)


def test_without_arguments_help_is_shown(environment: dict[str, str]) -> None:
    done = run(environment=environment)
    assert done.returncode == 0
    assert "--algo" in done.stdout


def test_a_request_can_come_from_the_environment_alone(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    _, algorithm, _, model, _, dataset = needed
    variables = {
        "ALIGNTUNE_ALGORITHM": algorithm,
        "ALIGNTUNE_MODEL": model,
        "ALIGNTUNE_DATASET": dataset,
        "ALIGNTUNE_ENGINE": "docker",
    }
    done = run(environment=environment | variables, folder=tmp_path)
    assert (done.returncode, done.stdout) == (6, "")
    assert "no container engine" in done.stderr


@pytest.mark.parametrize("word", ["--dry-run", "--json"])
def test_asking_for_a_plan_without_a_request_is_an_error(
    word: str, environment: dict[str, str]
) -> None:
    done = run(word, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")


# --- errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--json", "images", "list"], "--json before 'images'"),
        (["--engine", "process", "exec", "--", "true"], "--engine before 'exec'"),
        (["--gpus", "0", "--yes", "exec", "--", "true"], "--gpus, --yes before 'exec'"),
    ],
)
def test_an_option_before_a_command_is_refused(
    words: list[str], says: str, environment: dict[str, str]
) -> None:
    done = run(*words, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "put a command's options after it" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--algo", "sft"], 2, "missing --model, --dataset"),
        (["--set", "training.epoch=1"], 2, "did you mean 'training.epochs'?"),
        (["--set", "training.epochs"], 2, "not of the form section.key=value"),
        (["--set", "training.epochs=0"], 2, "greater than 0"),
        (["--batch-size", "0"], 2, "training.batch_size (from --batch-size)"),
        (["--model", "./nothing-here"], 3, "no such model: ./nothing-here"),
        (["--dataset", "nothing.jsonl"], 4, "no such dataset: nothing.jsonl"),
        (["--engine", "docker"], 6, "no container engine"),
        (["--gpus", "7"], 8, "--gpus 7: this machine has"),
        (["-c", "none.yaml"], 2, "cannot read the config file none.yaml"),
        (["--resume", "nowhere"], 2, "leave other keys out"),
        (["--set", "trainer_args.learning_rate=1"], 2, "Set training.learning_rate"),
    ],
)
def test_an_error_is_one_clear_line_with_its_exit_code(
    words: list[str],
    code: int,
    says: str,
    needed: list[str],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    before = sorted(tmp_path.rglob("*"))
    asked = words if words == ["--algo", "sft"] else [*needed, *words]
    done = run(*asked, environment=environment, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in " ".join(done.stderr.split())
    assert TRACEBACK not in done.stderr + done.stdout
    assert done.stdout == ""
    if "Usage:" not in done.stderr:
        assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--zzz", "x"], "no such option: --zzz"),
        (["--algo", "sfd"], "sfd"),
        (["--epochs", "many"], "many"),
        (["--engine", "podman"], "podman"),
        (["frobnicate"], "frobnicate"),
        (["--learning-rate", "1"], "no such option: --learning-rate; did you mean '--lr'?"),
        (["predict", "x", "--max-tokens", "1"], "--max-tokens; did you mean '--max-new-tokens'?"),
        (["predict", "x", "--zzz"], "no such option: --zzz. See aligntune-run predict --help"),
        (["images", "build", "jax"], "jax"),
    ],
)
def test_an_unknown_option_or_choice_is_one_line_that_names_it(
    words: list[str], says: str, environment: dict[str, str]
) -> None:
    done = run(*words, environment=environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert line.endswith("?") if "did you mean" in says else line.endswith(" --help")


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), 3, "it has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), 3, "has no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), 3, "cannot read"),
        (lambda folder: (folder / "config.json").write_text("{}"), 3, "has no model_type"),
        (lambda folder: (folder / "adapter_config.json").touch(), 3, "is an adapter, not a model"),
    ],
)
def test_a_folder_without_a_model_is_refused_before_anything_starts(
    make: Any, code: int, says: str, needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    make(tmp_path / "model")
    done = run(*needed, environment=environment, folder=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_is_not_overwritten(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "run.json").write_text('{"status": "finished"}')
    done = run(*needed, "--output", output, environment=environment, folder=tmp_path)
    assert done.returncode == 5
    assert "already holds a run (finished)" in done.stderr
    assert (output / "run.json").read_text() == '{"status": "finished"}'


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (None, "is not the run directory"),
        ({"status": "running"}, "is not the run directory"),
        ({"status": "finished", "plan": {}}, "is a finished run"),
        ({"status": "running", "plan": {}}, "is a run that is at work"),
    ],
)
def test_only_an_unfinished_run_without_a_worker_can_be_resumed(
    record: dict[str, Any] | None, says: str, environment: dict[str, str], tmp_path: Path
) -> None:
    if record is not None:
        (tmp_path / "run.json").write_text(json.dumps(record))
    with EventWriter(tmp_path / "events.jsonl"):  # as a worker does that lives
        done = run("--resume", tmp_path, environment=environment)
    assert done.returncode == 5
    assert says in done.stderr


NOT_OURS = "{run} is not the run directory of a run of this command"
BROKEN = "{run}/run.json is not a run's record: {key}: Input should be a valid dictionary"


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"status": "stopped", "plan": {}}, NOT_OURS),
        ({"id": "a", "plan": {"choice": {"backend": "trl"}}}, NOT_OURS),
        ({"status": "stopped", "plan": []}, BROKEN.replace("{key}", "plan")),
        (
            {"id": "a", "status": "stopped", "plan": {"choice": [1], "attempt": 1}},
            BROKEN.replace("{key}", "plan.choice"),
        ),
    ],
)
def test_a_foreign_record_cannot_be_resumed(
    record: dict[str, Any], says: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record))
    done = run("--resume", tmp_path, environment=environment)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"error: {says.format(run=tmp_path)}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("flag", ["--model", "--dataset", "--algo"])
def test_an_empty_name_counts_as_missing(
    flag: str, needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    place = needed.index(flag) + 1
    words = [*needed[:place], "", *needed[place + 1 :]]
    done = run(*words, "--engine", "process", environment=environment, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert flag in done.stderr or flag == "--algo"


def test_a_deeply_nested_config_is_refused(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "deep.yaml"
    config.write_text("training: " + "[" * 5000)
    done = run(*needed, "-c", config, environment=environment)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {config}: nested too deeply. Fix the YAML\n",
    )
    done = run(*needed, "--set", "training.epochs=" + "[" * 5000, environment=environment)
    assert done.returncode == 2
    assert TRACEBACK not in done.stderr


def test_a_removed_current_directory_is_an_error(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    code = "cd gone && rmdir ../gone && exec " + shlex.join(
        [sys.executable, "-m", "aligntune_run", *needed]
    )
    done = subprocess.run(
        ["sh", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        5,
        "error: the current directory was removed. Change to another directory\n",
    )
