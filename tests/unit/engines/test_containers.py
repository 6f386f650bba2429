"""Containers: what the engine refuses, and how a worker ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError

from aligntune.errors import AligntuneError, EngineError, HardwareError, ImageError
from aligntune_run.engines.base import Exit
from aligntune_run.engines.docker.engine import refusal
from aligntune_run.engines.docker.worker import ContainerWorker
from aligntune_run.engines.gpu_leases import Lease


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        (
            'Bad Request ("invalid mount config for type "bind": bind source path does not exist: '
            '/data/x y")',
            EngineError,
            "does not see /data/x y",
        ),
        ('could not select device driver "" with capabilities: [[gpu]]', HardwareError, "GPU"),
        ("404 Client Error: Not Found (No such image: sha256:abc)", ImageError, "sha256:abc"),
        (
            'The container name "/n" is already in use by container "f"',
            EngineError,
            "already exists",
        ),
        ("write /var/lib/x: no space left on device", EngineError, "disk is full"),
        ("something quite new", EngineError, "something quite new"),
    ],
)
def test_an_engines_refusal_is_told_in_the_users_words(
    message: str, kind: type[AligntuneError], says: str
) -> None:
    error = refusal(message, {"image": "sha256:abc", "name": "n"})
    assert type(error) is kind
    assert says in str(error)


class FakeContainer:
    """A container that ends when it is killed, or at once."""

    def __init__(self, code: int, running: bool) -> None:
        self.id, self.name, self.code = "c", "c", code
        self.gone = threading.Event()
        if not running:
            self.gone.set()

    def kill(self, signal: str) -> None:
        if self.gone.is_set():
            raise APIError("container c is not running")
        if signal == "SIGKILL":
            self.gone.set()

    def logs(self, tail: int) -> bytes:
        raise APIError("configured logging driver does not support reading")

    def remove(self, force: bool, v: bool) -> None:
        pass

    def worker(self) -> ContainerWorker:
        state = {"Running": False, "ExitCode": self.code, "OOMKilled": False}
        api: Any = SimpleNamespace(
            wait=lambda *_, timeout: self.gone.wait(30),
            inspect_container=lambda *_: {"State": state},
        )
        container: Any = self
        return ContainerWorker(api, container, Lease())


class TestContainerWorker:
    def test_a_log_that_cannot_be_read_takes_nothing_from_success(self) -> None:
        assert FakeContainer(0, running=False).worker().wait(30) == Exit(0, False, "")

    def test_a_worker_that_we_kill_is_told_from_one_that_is_killed(self) -> None:
        worker = FakeContainer(137, running=True).worker()
        worker.stop()
        worker.kill()
        assert worker.wait(30) == Exit(137, False, "", killed=True)
        worker = FakeContainer(137, running=False).worker()
        worker.kill()
        assert worker.wait(30) == Exit(137, False, "")
