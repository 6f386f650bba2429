"""Doctor beside a real engine, as an ordinary user; no image of ours is needed."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from tests.containers.runs import TRACEBACK, Bench, Ended

from aligntune import contract
from aligntune.record.run_dir import RunDir
from aligntune_run.doctor.checks import MACHINE
from aligntune_run.selection import rules

TOKEN = "hf_NobodyMaySeeThisOne"
EMPTY = "aligntune-doctor-test:empty"


@pytest.fixture(scope="module")
def stranger() -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="aligntune-doctor-"))
    folder.chmod(0o755)
    yield Bench(folder)
    shutil.rmtree(folder)


@pytest.fixture
def run(stranger: Bench) -> RunDir:
    """A run whose worker was killed while its log told why."""
    made = RunDir(stranger.output())
    made.path.mkdir()
    made.update(id="doctor-test", status="running", plan={}, run_dir=str(made.path))
    made.log.write_text(f"token {TOKEN}\nRuntimeError: Failed to find C compiler. Please specify\n")
    stranger.give_away()
    return made


@pytest.fixture
def left_behind(engine: DockerClient, run: RunDir) -> Iterator[str]:
    """A container of that run, created and never started."""
    archive = io.BytesIO()
    tarfile.open(fileobj=archive, mode="w").close()
    repository, tag = EMPTY.split(":")
    engine.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
    labels = {
        contract.LABEL_RUN_ID: "doctor-test",
        contract.LABEL_RUN_DIR: str(run.path),
        contract.LABEL_PHASE: "train",
    }
    container = engine.containers.create(EMPTY, "true", labels=labels)
    yield str(container.name)
    container.remove(force=True)
    engine.images.remove(EMPTY)


def parse_output(done: Ended) -> dict[str, Any]:
    assert TRACEBACK not in done.err, done.report
    return dict(json.loads(done.out))


def test_the_engine_its_images_and_what_was_left_behind_are_told(
    stranger: Bench, engine: DockerClient, left_behind: str
) -> None:
    done = stranger.run("doctor", "--json", "--offline")
    said = parse_output(done)
    assert said["exit_code"] == done.code
    by_check = {one["check"]: one for one in said["checks"] if one["check"] != "containers"}
    assert set(by_check) <= {*MACHINE.checks, *rules.MACHINE.checks, *rules.BACKEND.checks}
    assert by_check["engine"]["level"] == "pass"
    assert str(engine.version()["Version"]) in by_check["engine"]["evidence"]
    assert {one["check"] for one in said["checks"]} >= {"image", "buildkit", "platform"}
    own = [one for one in said["checks"] if left_behind in one["evidence"]]
    assert [(one["check"], one["level"]) for one in own] == [("containers", "warn")]
    assert f"docker rm -f {left_behind}" in own[0]["remedy"]


def test_a_killed_run_is_told_and_packed_without_the_token(
    stranger: Bench, run: RunDir, left_behind: str
) -> None:
    archive = stranger.folder / "data" / "report.tar.gz"
    words = ("doctor", run.path, "--json", "--offline", "--bundle", archive)
    said = {one["check"]: one for one in parse_output(stranger.run(*words))["run"]}
    assert "nothing is running in it" in said["run"]["evidence"]
    assert left_behind in said["run-container"]["evidence"]
    assert said["run-log"]["evidence"].startswith("no-compiler")
    assert f"--resume {run.path}" in said["resume"]["remedy"]
    content = gzip.decompress(archive.read_bytes())
    assert b"Failed to find C compiler" in content
    assert TOKEN.encode() not in content
