"""explain and status: what would run here and why, told by the whole command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import nvml
from tests.helpers.command import TRACEBACK, run

from aligntune_run.engines import gpu_leases
from aligntune_run.host.types import Gpu


def parse_output(done: subprocess.CompletedProcess[str]) -> Any:
    assert TRACEBACK not in done.stdout + done.stderr
    return json.loads(done.stdout)


def test_explain_shows_every_rule_and_which_decided(
    needed: list[str], environment: dict[str, str]
) -> None:
    done = run("explain", *needed, environment=environment)
    assert done.returncode == 0, done.stderr
    for words in ("trl      model", "unsloth  gpu", "both     data", "it needs an NVIDIA GPU"):
        assert words in done.stdout
    assert done.stdout.splitlines()[-1].startswith("TRL on the CPU (not Unsloth: ")


def test_explain_s_json_is_the_same_for_programs(
    needed: list[str], environment: dict[str, str]
) -> None:
    found = parse_output(run("explain", *needed, "--json", environment=environment))
    assert found["choice"]["backend"] == "trl"
    assert (found["rule"], found["refusal"]) == ("gpu", None)
    assert {one["level"] for one in found["verdicts"]} <= {"pass", "warn", "fail"}


def test_explain_exits_like_the_run_and_still_shows_every_rule(
    needed: list[str], environment: dict[str, str]
) -> None:
    words = [*needed, "--gpus", "1", "--json"]
    done = run("explain", *words, environment=environment)
    found = parse_output(done)
    assert done.returncode == found["refusal"]["exit_code"] == 8
    assert found["choice"] is None
    assert found["rule"] == "gpus"
    assert len(done.stderr.strip().splitlines()) == 1
    assert run(*words, environment=environment).returncode == 8


def test_explain_leaves_nothing_behind(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    run("explain", *needed, environment=environment, folder=tmp_path)
    run("status", environment=environment, folder=tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_status_shows_both_backends_and_the_machine(environment: dict[str, str]) -> None:
    found = parse_output(run("status", "--json", environment=environment))
    assert not found["backends"]["unsloth"]["available"]
    assert "NVIDIA GPU" in found["backends"]["unsloth"]["reason"]
    assert found["host"]["memory"] > 0
    assert found["host"]["token"] is False


def test_neither_output_contains_a_token(
    needed: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    secret = {**environment, "HF_TOKEN": "hf_planted", "HF_HUB_OFFLINE": "1"}
    for words in (["status"], ["explain", *needed]):
        done = run(*words, "--json", environment=secret)
        assert "hf_planted" not in done.stdout + done.stderr


@pytest.fixture
def one_gpu(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A machine with a GPU of its own number, as far as NVML tells."""
    (tmp_path / "nvml").mkdir()
    gpu = nvml.Device(uuid="GPU-0000bef0-0000-4000-8000-000000000000")
    return {**environment, **nvml.stand_in(tmp_path / "nvml", [gpu])}


def test_a_gpu_is_shown_and_unsloth_is_chosen_for_it(
    needed: list[str], one_gpu: dict[str, str]
) -> None:
    words = ["--engine", "process", "--json"]
    found = parse_output(run("explain", *needed, *words, environment=one_gpu))
    assert [len(found["gpus"]), len(found["choice"]["gpus"])] == [1, 1]
    assert found["choice"]["backend"] == "unsloth"


def test_a_leased_gpu_is_listed_but_not_free(needed: list[str], one_gpu: dict[str, str]) -> None:
    (told_of,) = parse_output(run("status", "--json", environment=one_gpu))["host"]["gpus"]
    gpu = Gpu(**{**told_of, "capability": (9, 0)})
    with gpu_leases.choosing():
        lease = gpu_leases.Lease.take([gpu])
    with lease:
        refused = run("explain", *needed, "--engine", "process", environment=one_gpu)
        status = run("status", environment=one_gpu)
    assert refused.returncode == 8
    assert "is in use by another run" in refused.stderr
    assert "in use by another run" in status.stdout
