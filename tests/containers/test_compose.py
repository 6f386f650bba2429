"""compose.yaml: valid for the compose that is here, confined as the launcher's runs, and it trains.

A plain ``docker-compose`` of Debian (1.29) and the newer plugin both read it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from docker import DockerClient
from tests.containers.runs import GID, ROOT, TIMEOUT, TRAINING, UID, Bench, Ended

from aligntune_run.images import recipe

TRAINING_SERVICES = {"trl", "trl-gpu", "unsloth"}
TOKEN = "hf_thisIsNobodysToken"
SECRET = "/run/secrets/hf_token"
PAIRS = [{"prompt": f"what is {n} plus two", "completion": f" {n + 2}"} for n in range(16)]

Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """``compose(*words, **variables)`` in a project of this test's own, removed at the end."""
    words = [*program(), "--file", str(ROOT / "compose.yaml"), "--project-name", f"at{uuid4().hex}"]

    def run(
        *more: str, variables: Mapping[str, str | Path] | None = None
    ) -> subprocess.CompletedProcess[str]:
        given = {name: str(value) for name, value in (variables or {}).items()}
        return subprocess.run(
            [*words, *more],
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    yield run
    run("down", "--volumes")


def program() -> list[str]:
    """The compose that is here; there must be one, for a pass must mean that it ran."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    found = shutil.which("docker-compose")
    assert found, "this needs compose: apt-get install docker-compose, as scripts/engine.sh does"
    return [found]


@pytest.fixture(scope="module")
def services(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The services as compose understands them, with every variable of the header set."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "token").write_text(TOKEN)
    variables = {
        "SPEC": folder / "spec.yaml",
        "RUN_DIR": folder / "run",
        "INPUTS": folder,
        "HF_TOKEN_FILE": folder / "token",
        "UID": "4321",
        "GID": "1234",
    }
    said = compose("--profile", "gpu", "--profile", "fetch", "config", variables=variables)
    assert said.returncode == 0, said.stderr
    assert TOKEN not in said.stdout
    return dict(yaml.safe_load(said.stdout)["services"])


@pytest.fixture(scope="module")
def flavour(engine: DockerClient, image: Callable[[str, str], str]) -> str:
    """The tag of exactly this recipe's image; the default is the newest one's, whatever that is."""
    tags = (tag.partition(":")[2] for tag in engine.images.get(image("trl", "cpu")).tags)
    return next(tag for tag in tags if tag.startswith("cpu-"))


def test_it_has_each_backend_and_what_fetches_for_them(services: dict[str, Any]) -> None:
    assert set(services) == TRAINING_SERVICES | {"fetch"}
    images = {name: service["image"] for name, service in services.items()}
    assert images == {
        "trl": recipe("trl", "cpu").alias,
        "trl-gpu": recipe("trl", "cuda").alias,
        "unsloth": recipe("unsloth", "cuda").alias,
        "fetch": recipe("trl", "cpu").alias,
    }


def test_every_service_is_the_caller_with_no_rights_of_its_own(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["user"] == "4321:1234"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        writable = {
            mount["target"] for mount in service["volumes"] if not mount.get("read_only", False)
        }
        assert writable == {"/run-dir", "/cache"}


def test_training_has_neither_network_nor_token_and_fetching_has_both(
    services: dict[str, Any],
) -> None:
    mounts = {
        name: {mount["target"] for mount in service["volumes"]}
        for name, service in services.items()
    }
    for name in TRAINING_SERVICES:
        assert services[name]["network_mode"] == "none"
        assert SECRET not in mounts[name]
    assert services["fetch"].get("network_mode") != "none"
    assert SECRET in mounts["fetch"]
    assert services["fetch"]["environment"]["HF_TOKEN_PATH"] == SECRET
    assert not [target for target in mounts["fetch"] if target.startswith("/in")]


def test_the_token_can_be_read_where_it_is_fetched_with_and_nowhere_else(
    compose: Compose, flavour: str, bench: Bench
) -> None:
    spec, token = bench.write("spec.yaml", ""), bench.write("token", TOKEN)
    bench.give_away()
    variables = {
        **request_of(bench.folder / "runs", spec, bench.folder, flavour),
        "HF_TOKEN_FILE": token,
    }
    show = ["run", "--rm", "-T", "--entrypoint", "sh"]
    script = "cat /run/secrets/* || true"
    fetching = compose(*show, "fetch", "-c", script, variables=variables)
    assert (fetching.returncode, fetching.stdout) == (0, TOKEN), fetching.stderr
    training = compose(*show, "trl", "-c", script, variables=variables)
    assert (training.returncode, training.stdout) == (0, ""), training.stderr


def request_of(run: Path, spec: Path, inputs: Path, flavour: str) -> dict[str, str | Path]:
    """The variables of the file's header."""
    return {
        "SPEC": spec,
        "RUN_DIR": run,
        "INPUTS": inputs,
        "UID": str(UID),
        "GID": str(GID),
        "FLAVOUR": flavour,
    }


def test_a_missing_gpu_is_an_error_where_one_was_asked_for(services: dict[str, Any]) -> None:
    for name in ("trl-gpu", "unsloth"):
        assert services[name]["environment"]["UNSLOTH_DISABLE_CPU_FALLBACK"] == "1"
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_the_trl_service_trains_from_a_spec_file_and_leaves_all_to_the_caller(
    compose: Compose, flavour: str, bench: Bench
) -> None:
    run = bench.output()
    run.mkdir()
    data = bench.write("compose.jsonl", PAIRS)
    request = {
        "algorithm": "sft",
        "model": str(bench.models / "llama"),
        "dataset": str(data),
        "training": TRAINING,
    }
    spec = bench.write("compose.yaml", yaml.safe_dump(request))
    bench.give_away()
    variables = request_of(run, spec, bench.folder, flavour)
    done = compose("run", "--rm", "-T", "-e", "OMP_NUM_THREADS=1", "trl", variables=variables)
    ended = Ended(done.returncode, done.stdout, done.stderr, run)
    assert ended.code == 0, ended.report
    assert ended.result["steps"] == TRAINING["max_steps"]
    assert ended.losses[-1] < ended.losses[0] - 1
    assert (run / "model" / "model.safetensors").stat().st_size > 0
    paths = (run, *run.rglob("*"))
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(UID, GID)}
