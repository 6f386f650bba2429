"""A real engine and the real images: built where they are missing, never skipped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from docker import DockerClient
from tests.containers.runs import ROOT, Bench, in_image

from aligntune_run.engines.connect import connect
from aligntune_run.images import obtain, recipe


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """A local engine; without one these tests fail, for a pass must mean that they ran."""
    client, reason = connect()
    assert client is not None, f"the container tests need an engine: {reason}"
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(engine: DockerClient) -> Callable[[str, str], str]:
    """``image(backend, flavour)``: the id of an image that is up to date with its recipe."""
    return cache(lambda backend, flavour: obtain(engine, recipe(backend, flavour), say=print))


@pytest.fixture(scope="session")
def bench(engine: DockerClient, image: Callable[[str, str], str]) -> Iterator[Bench]:
    """Tiny random models, made in the TRL image, and the command to train them with."""
    folder = Path(tempfile.mkdtemp(prefix="aligntune-bench-"))
    folder.chmod(0o755)
    made = Bench(folder)
    script = Path(shutil.copy(ROOT / "tests" / "tiny.py", folder))
    in_image(engine, image("trl", "cpu"), script, made, made.models)
    yield made
    shutil.rmtree(folder)
