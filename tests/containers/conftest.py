"""A real engine and the real images: built where they are missing, never skipped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from tests.containers.learning import Learning
from tests.containers.runs import ROOT, Bench, in_image

from aligntune import contract
from aligntune_run.host.docker_client import connect
from aligntune_run.images import build, obtain, recipe


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """A local engine; without one these tests fail, for a pass must mean that they ran."""
    client, reason = connect()
    assert client is not None, f"the container tests need an engine: {reason}"
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(engine: DockerClient) -> Callable[[str, str], str]:
    """``image(backend, flavour)``: the id of an image whose environment and code are up to date."""

    def current(backend: str, flavour: str) -> str:
        made = recipe(backend, flavour)
        here = obtain(engine, made, say=print)
        if engine.images.get(here).labels.get(contract.LABEL_CODE) != made.code_hash:
            return build(engine, made, say=print)
        return here

    return cache(current)


@pytest.fixture(scope="session")
def bench(engine: DockerClient, image: Callable[[str, str], str]) -> Iterator[Bench]:
    """Tiny random models, made in the TRL image, and the command to train them with."""
    folder = Path(tempfile.mkdtemp(prefix="aligntune-bench-"))
    folder.chmod(0o755)
    made = Bench(folder)
    script = Path(shutil.copy(ROOT / "tests" / "helpers" / "tiny.py", folder))
    in_image(engine, image("trl", "cpu"), script, made, made.models)
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def learning(engine: DockerClient, image: Callable[[str, str], str], bench: Bench) -> Learning:
    """Toys to learn, see :mod:`tests.helpers.toys`."""
    made = Learning(engine, image, bench)
    made.prepare()
    return made


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the cells of the matrix came to."""
    reports = [
        (report.nodeid, report.duration, dict(report.user_properties))
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if report.when == "call"
    ]
    lines = [
        f"{node.partition('[')[2].rstrip(']'):24}{properties['figure']}, {duration:.0f} s in all"
        for node, duration, properties in reports
        if "figure" in properties
    ]
    if lines:
        terminalreporter.section("what was learned")
        terminalreporter.write_line("\n".join(lines))
