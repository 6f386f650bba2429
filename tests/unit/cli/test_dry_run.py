"""Dry runs, JSON, and streams that are closed or full."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.command import TRACEBACK, run


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(
    closed: str, needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    words = [*needed, "--gpus", "0", "--engine", "process", "--dry-run"]
    command = shlex.join([sys.executable, "-m", "aligntune_run", *words])
    for asked, code in ((command, 0), (f"{command} --output /dev/null", 5)):
        done = subprocess.run(
            ["sh", "-c", f"{asked} {closed}"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert TRACEBACK not in done.stderr
        assert ("sft with TRL" in done.stdout) == (code == 0 and ">&-" not in closed.split())


def test_what_the_terminal_cannot_show_is_escaped(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "dätä.jsonl"
    data.write_text('{"text": "a"}\n')
    words = [*needed, "--dataset", str(data), "--gpus", "0", "--engine", "process", "--dry-run"]
    ascii_only = environment | {"PYTHONIOENCODING": "ascii"}
    done = run(*words, environment=ascii_only, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "d\\xe4t\\xe4.jsonl" in done.stdout
    done = run(*words, "--json", environment=ascii_only, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--dry-run"], ["--dry-run", "--json"]])
def test_output_to_a_full_disk_is_an_error(
    words: list[str], needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    asked = [sys.executable, "-m", "aligntune_run", *needed, "--gpus", "0", "--engine", "process"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*asked, *words],
            env=environment,
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 5
    assert done.stderr.startswith("error: no space left for the output")
    assert TRACEBACK not in done.stderr


@pytest.fixture
def plan(needed: list[str], environment: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    words = [*needed, "--gpus", "0", "--engine", "process", "--epochs", "2", "--dry-run", "--json"]
    done = run(*words, environment=environment, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_a_dry_run_prints_the_plan_as_json_only_and_changes_nothing(
    plan: dict[str, Any], tmp_path: Path
) -> None:
    assert plan["plan"]["choice"]["backend"] == "trl"
    assert plan["plan"]["choice"]["engine"] == "process"
    assert plan["spec"]["training"]["epochs"] == 2
    assert plan["plan"]["origins"]["training.epochs"] == "--epochs"
    assert plan["commands"]
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("command", [["explain"], ["--dry-run", "--engine", "process"]])
def test_what_a_run_will_train_with_is_shown_before_anything_is_loaded(
    needed: list[str], environment: dict[str, str], command: list[str]
) -> None:
    words = [*needed, "--gpus", "0", "--lr", "1e-4", "--batch-size", "4"]
    done = run(*command, *words, environment=environment)
    assert done.returncode == 0, done.stderr
    for line in (
        "batch 4 x 4 x 1 = 16 sequences (--batch-size; default) · 3 epochs (default)",
        "learning rate 0.0001 (--lr) · cosine (default for sft) · warm-up 3 % (default for sft)",
    ):
        assert f"  {line}" in done.stdout.splitlines(), done.stdout
    recipe = json.loads(run(*command, *words, "--json", environment=environment).stdout)["recipe"]
    assert recipe["effective_batch"] == 16
    assert recipe["origins"]["training.learning_rate"] == "--lr"


def test_a_dry_run_as_text_shows_the_choice_and_every_verdict(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    words = [*needed, "--gpus", "0", "--engine", "process", "--dry-run"]
    done = run(*words, environment=environment, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("sft with TRL on the CPU (not Unsloth: it needs an NVIDIA GPU")
    assert "fail  unsloth" in done.stdout
    assert "pass  trl" in done.stdout


def test_an_unavailable_backend_gives_a_clear_warning(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    words = [*needed, "--gpus", "0", "--engine", "process", "--backend", "unsloth", "--dry-run"]
    done = run(*words, environment=environment, folder=tmp_path)
    assert done.returncode == 0
    assert "WARNING: Unsloth is unavailable" in done.stderr
    strict = run(*words, "--strict", environment=environment, folder=tmp_path)
    assert strict.returncode == 9
    assert "--strict: Unsloth is unavailable" in strict.stderr


def test_settings_come_from_file_environment_and_command_line_in_this_order(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("training: {epochs: 1, seed: 1, batch_size: 1}\n")
    variables = {"ALIGNTUNE_TRAINING__SEED": "2", "ALIGNTUNE_TRAINING__BATCH_SIZE": "2"}
    words = [*needed, "-c", str(config), "--batch-size", "3", "--gpus", "0"]
    words += ["--engine", "process"]
    done = run(*words, "--dry-run", "--json", environment=environment | variables, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    training = json.loads(done.stdout)["spec"]["training"]
    assert (training["epochs"], training["seed"], training["batch_size"]) == (1, 2, 3)


def test_a_reader_who_leaves_early_causes_no_error(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    words = [*needed, "--gpus", "0", "--engine", "process", "--dry-run"]
    command = [sys.executable, "-m", "aligntune_run", *words]
    program = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    with program.stderr:
        said = program.stderr.read().decode()
    assert program.wait(300) == 0
    assert said == ""


CLOSED = """
import os, sys
from aligntune.record.schema import RunRecord
from aligntune_run import images
from aligntune_run.cli import main, output
from aligntune_run.host import docker_client
from aligntune_run.planning import prepare
from aligntune_run.runs import execute as runs
done = []
def choice(prepared, stream):
    print("x", file=stream, flush=True)
def obtain(prepared, say):
    say("x")
    done.append("obtained")
def execute(prepared, watch):
    watch({"event": "note", "message": "x"})
    done.append("trained")
    return RunRecord()
prepare.prepare = lambda *_: None
output.choice, runs.obtain, runs.execute = choice, obtain, execute
output.summary = lambda record, stream: print("x", file=stream)
docker_client.require_client = lambda: None
images.build = lambda *_, say, **__: [say("x"), done.append("built")]
code = main.main()
print(*done, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_log_on_a_full_disk_does_not_end_a_run(
    words: list[str], needed: list[str], environment: dict[str, str]
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", CLOSED, *needed, "--seed", "1", *words],
            env=environment,
            stdout=subprocess.DEVNULL if words else full,
            stderr=full if words else subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 0
    if not words:
        assert done.stderr == "obtained trained\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--seed", "1"], 0, "obtained trained\n"),
        (["--seed", "1", "--json"], 0, "x\nx\nx\nobtained trained\n"),
        (["images", "build"], 141, ""),
    ],
)
def test_a_reader_who_leaves_does_not_end_a_run_but_ends_a_build(
    words: list[str], code: int, says: str, needed: list[str], environment: dict[str, str]
) -> None:
    asked = words if words[0] == "images" else [*needed, *words]
    program = subprocess.Popen(
        [sys.executable, "-c", CLOSED, *asked],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    with program.stderr:
        said = program.stderr.read()
    assert (program.wait(300), said) == (code, says)
