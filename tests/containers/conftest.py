"""A real engine and the real images: built where they are missing, never skipped."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from tests.containers import sharing
from tests.containers.jobs import ONE_THREAD, removed_at_exit
from tests.containers.learning import Learning
from tests.containers.runs import ROOT, Bench, in_image
from xdist.scheduler import LoadScopeScheduling

from aligntune import contract
from aligntune_run.host.docker_client import connect
from aligntune_run.images import build, obtain, recipe

INDEPENDENT = {
    "test_bad_input",
    "test_going_on",
    "test_gpu_kit",
    "test_images",
    "test_matrix",
    "test_python_api",
    "test_unsloth_gpu_path",
}
"""Modules whose tests share nothing that is slow to make, so each can run on any worker."""

LONG = {
    "test_training": 9,
    "test_gpu_kit": 8,
    "test_python_api": 7,
    "test_process_engine": 6,
    "test_parity": 5,
    "test_wheel": 4,
    "test_unsloth_gpu_path": 3,
    "test_going_on": 3,
    "test_afterwards": 2,
    "test_matrix": 1,
}
"""Modules that start before the others, the highest first."""


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A worker gets all tests of a module, as they share what is slow to make, or a single test."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return nodeid if Path(module).stem in INDEPENDENT else module


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """A local engine; without one these tests fail, for a pass must mean that they ran."""
    client, reason = connect()
    assert client is not None, f"the container tests need an engine: {reason}"
    yield client
    client.close()


@pytest.fixture(scope="session", autouse=True)
def clean_up() -> Iterator[None]:
    """No container that the tests start outlives them."""
    with removed_at_exit():
        yield


@pytest.fixture(scope="session")
def image(engine: DockerClient) -> Callable[[str, str], str]:
    """``image(backend, flavour)``: the id of an image whose environment and code are up to date."""

    def current(backend: str, flavour: str) -> str:
        made = recipe(backend, flavour)
        with sharing.locked("images"):
            here = obtain(engine, made, say=print)
            if engine.images.get(here).labels.get(contract.LABEL_CODE) != made.code_hash:
                return build(engine, made, say=print)
        return here

    return cache(current)


@pytest.fixture(scope="session")
def bench(image: Callable[[str, str], str]) -> Iterator[Bench]:
    """Tiny random models, made in the TRL image, and the command to train them with."""
    folder = Path(tempfile.mkdtemp(prefix="aligntune-bench-"))
    folder.chmod(0o755)
    made = Bench(folder)

    def make(models: Path) -> None:
        script = Path(shutil.copy(ROOT / "tests" / "helpers" / "tiny.py", folder))
        in_image(image("trl", "cpu"), script, made, made.models)
        shutil.copytree(made.models, models)

    shutil.copytree(sharing.made_once("models", make), made.models, dirs_exist_ok=True)
    made.give_away()
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def learning(image: Callable[[str, str], str], bench: Bench) -> Learning:
    """Toys to learn, see :mod:`tests.helpers.toys`."""
    made = Learning(image, bench)
    made.prepare()
    return made


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Long modules start first in any order, so that all workers end together."""
    yield
    items.sort(key=lambda item: LONG.get(item.path.stem, 0), reverse=True)


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_configure() -> None:
    """Before there are workers, so that they inherit these variables."""
    os.environ.update(ONE_THREAD)
    sharing.begin()


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
