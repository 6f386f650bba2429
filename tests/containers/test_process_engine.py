"""Without an engine: the same worker in a venv made from the image's own lock, for real."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.containers.runs import GID, TRACEBACK, TRAINING, UID, Bench, Ended, wait_for_step

from aligntune_run.images import find_torch_wheel, recipe

NOWHERE = {"DOCKER_HOST": "unix:///nowhere.sock"}
TOKEN = "hf_thisIsNobodysToken"
MAKING = "making an environment of"
PAIRS = [{"prompt": f"what is {n} plus two", "completion": f" {n + 2}"} for n in range(16)]
LONGEST = 1200
"""Seconds in which the whole stack is downloaded and installed, once."""


class Machine:
    """The bench with what this engine needs: pip's settings, and a cache that all runs share."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.data = bench.write("process.jsonl", PAIRS)
        made_of = recipe("trl", "cpu")
        self.venv = folder / "aligntune" / "envs" / f"trl-cpu-{made_of.lock_hash[:12]}"
        self.environment = {
            "ALIGNTUNE_CACHE_DIR": str(folder / "aligntune"),
            "HF_HOME": str(folder / "huggingface"),
            "PIP_CONFIG_FILE": str(pip_settings(folder)),
            "PIP_FIND_LINKS": "",
        }
        bench.give_away()
        for path in (folder, *folder.iterdir()):
            os.chown(path, UID, GID)

    def start(
        self, run: Path, *words: str, environment: dict[str, str], steps: int = 0
    ) -> subprocess.Popen[str]:
        training = {**TRAINING, **({"max_steps": steps} if steps else {})}
        sets = [f"--set=training.{key}={value}" for key, value in training.items()]
        model = self.bench.models / "llama"
        request = [
            "--algo",
            "sft",
            "--model",
            str(model),
            "--dataset",
            str(self.data),
            "--gpus",
            "0",
        ]
        return self.bench.start(
            *request, *sets, "--output", run, *words, environment=self.environment | environment
        )

    def train(self, *words: str, environment: dict[str, str]) -> Ended:
        run = self.bench.output()
        with self.start(run, *words, environment=environment) as command:
            out, err = command.communicate(timeout=LONGEST)
        return Ended(command.returncode, out, err, run)


def pip_settings(folder: Path) -> Path:
    """pip's settings as whoever runs the tests has them, where the stranger may read them too."""
    list_all = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(list_all, capture_output=True, text=True, check=True).stdout
    found = (line.partition("=") for line in said.splitlines() if line.startswith("global."))
    values = {
        key.removeprefix("global."): " ".join(str(ast.literal_eval(value)).split())
        for key, _, value in found
    }
    wheels = find_torch_wheel(recipe("trl", "cpu").lock)
    folders = [Path(shutil.copy(path, folder)).parent for path in wheels.files]
    values["find-links"] = " ".join(map(str, [*folders, *wheels.urls]))
    path = folder / "pip.conf"
    lines = [f"{key} = {value}\n" for key, value in values.items() if value]
    path.write_text("[global]\n" + "".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def machine(bench: Bench) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="aligntune-process-"))
    yield Machine(bench, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def first(machine: Machine) -> Ended:
    """A run on a machine without an engine, where nobody has named one; it makes the venv."""
    ended = machine.train(environment=NOWHERE)
    assert ended.code == 0, ended.report
    return ended


@pytest.fixture(scope="module")
def second(machine: Machine, first: Ended) -> Ended:
    """The same again, where the engine is asked for by name."""
    ended = machine.train("--engine", "process", environment={})
    assert ended.code == 0, ended.report
    return ended


def test_without_an_engine_it_says_in_one_line_that_it_runs_as_a_process_and_why(
    first: Ended,
) -> None:
    line = first.out.splitlines()[0]
    assert line.startswith("sft with TRL on the CPU (")
    assert line.endswith(
        "engine process, as no container engine is reachable: "
        "there is no /nowhere.sock: no engine is installed, or none runs"
    )
    assert [told for told in first.out.splitlines() if "nowhere.sock" in told] == [line]
    (size,) = first.err.splitlines()
    assert re.fullmatch(
        r"The environment trl-cpu-\w+ is made here: [0-9.]+ GiB to download\.", size
    )


def test_it_trains_to_a_model(first: Ended) -> None:
    assert first.losses[-1] < first.losses[0] - 1
    assert first.record["status"] == "finished"
    assert first.record["plan"]["choice"]["engine"] == "process"
    assert first.record["plan"]["choice"]["image"] is None
    assert (first.run / "model" / "model.safetensors").stat().st_size > 0


def test_its_stack_is_that_of_the_image(first: Ended) -> None:
    made_of = recipe("trl", "cpu")
    assert first.record["plan"]["choice"]["lock_hash"] == made_of.lock_hash
    shared = set(first.result["versions"]) & set(made_of.versions)
    assert {"torch", "transformers", "trl", "peft", "datasets"} <= shared
    assert {name: first.result["versions"][name] for name in shared} == {
        name: made_of.versions[name] for name in shared
    }
    assert first.result["versions"]["torch"].endswith("+cpu"), "the wheel that pip's settings name"


def test_the_venv_is_made_once(machine: Machine, first: Ended, second: Ended) -> None:
    assert MAKING in first.out
    assert MAKING not in second.out
    assert second.out.splitlines()[0].endswith("engine process, as requested")
    (venv,) = [path for path in machine.venv.parent.iterdir() if path.is_dir()]
    assert venv == machine.venv


def test_the_same_spec_and_seed_train_to_the_same_loss_as_in_a_container(
    machine: Machine, first: Ended, second: Ended
) -> None:
    contained = machine.bench.train("llama", machine.data)
    assert contained.record["plan"]["choice"]["engine"] == "docker"
    assert first.result["final_loss"] == pytest.approx(contained.result["final_loss"], abs=1e-4)
    assert first.losses == pytest.approx(contained.losses, abs=1e-4)
    assert second.losses == first.losses, "and to the last digit as a process again"


def test_all_that_it_leaves_belongs_to_the_caller(machine: Machine, first: Ended) -> None:
    for folder in (first.run, machine.folder):
        paths = (folder, *folder.rglob("*"))
        assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(UID, GID)}


def test_the_training_worker_is_given_no_token_and_stops_when_asked(
    machine: Machine, first: Ended
) -> None:
    run = machine.bench.output()
    secrets = {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN}
    with machine.start(run, environment=NOWHERE | secrets, steps=2000) as command:
        wait_for_step(run, 4)
        given = environment_of(run)
        command.send_signal(signal.SIGTERM)
        _, err = command.communicate(timeout=LONGEST)
    assert TOKEN not in "".join(given.values())
    assert given["HF_TOKEN_PATH"] == os.devnull
    assert given["HF_HUB_OFFLINE"] == "1"
    assert not [name for name in given if name.startswith("ALIGNTUNE_")]
    assert command.returncode == 75, err
    assert f"aligntune-run --resume {run}" in err
    left = [path for path in run.rglob("*") if path.is_file() and TOKEN.encode() in read(path)]
    assert left == []


def environment_of(run: Path) -> dict[str, str]:
    """The variables that the worker of a run was started with, as the kernel keeps them."""
    spec = str(run / "spec.yaml")
    for process in Path("/proc").glob("[0-9]*"):
        words = read(process / "cmdline").decode(errors="replace").split("\0")
        if "aligntune.training" in words and spec in words:
            pairs = read(process / "environ").decode().split("\0")
            return dict(pair.split("=", 1) for pair in pairs if pair)
    raise AssertionError(f"no process trains {run}")


def read(path: Path) -> bytes:
    """A file's content; nothing where the process it is of has gone."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_an_engine_that_is_asked_for_and_not_there_is_an_error_with_a_remedy(
    machine: Machine,
) -> None:
    ended = machine.train("--engine", "docker", environment=NOWHERE)
    assert ended.code == 6, ended.report
    assert ended.err == (
        "error: no container engine: there is no /nowhere.sock: no engine is installed, or none "
        "runs. Start one (see 'Container engine' in the README), or use --engine process\n"
    )
    assert TRACEBACK not in ended.out
    assert not ended.run.exists()
