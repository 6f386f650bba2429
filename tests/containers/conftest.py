"""A real engine and the real images: built where they are missing, never skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
from docker import DockerClient

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
