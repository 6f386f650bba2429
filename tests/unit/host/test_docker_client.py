"""The container engine: how it is found, and why it cannot be used."""

from __future__ import annotations

import hashlib
import socket
import threading
from pathlib import Path
from typing import Self

import pytest

from aligntune_run.host.docker_client import connect


class Listener:
    """A socket that answers every request with the same bytes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(self._answer)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()


class TestConnect:
    @pytest.mark.parametrize(
        "address", ["ssh://me@far", "tcp://192.0.2.1:2376", "npipe:////./pipe/x"]
    )
    def test_an_engine_on_another_machine_is_refused_with_the_reason(self, address: str) -> None:
        client, reason = connect({"DOCKER_HOST": address})
        assert client is None
        assert "another machine" in reason
        assert "me@" not in reason

    def test_the_current_context_is_looked_at(self, tmp_path: Path) -> None:
        digest = hashlib.sha256(b"far").hexdigest()
        folder = tmp_path / "contexts" / "meta" / digest
        folder.mkdir(parents=True)
        (tmp_path / "config.json").write_text('{"currentContext": "far"}')
        (folder / "meta.json").write_text('{"Endpoints": {"docker": {"Host": "ssh://far"}}}')
        client, reason = connect({"DOCKER_CONFIG": str(tmp_path)})
        assert client is None
        assert "context 'far' is an engine on another machine" in reason

    def test_what_is_named_is_not_replaced_by_what_is_usual(self, tmp_path: Path) -> None:
        client, reason = connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
        assert client is None
        assert f"there is no {tmp_path}/none.sock" in reason

    def test_a_socket_that_nothing_listens_at_is_a_stopped_engine(self, tmp_path: Path) -> None:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(f"{tmp_path}/dead.sock")
        dead.close()
        client, reason = connect({"DOCKER_HOST": f"unix://{tmp_path}/dead.sock"})
        assert client is None
        assert "has stopped" in reason

    def test_something_else_that_listens_is_no_engine(self, tmp_path: Path) -> None:
        with Listener(tmp_path / "s", b"HTTP/1.0 404 Not Found\r\n\r\n"):
            client, reason = connect({"DOCKER_HOST": f"unix://{tmp_path}/s"})
        assert client is None
        assert "404" in reason

    def test_an_engine_that_answers_is_connected_to(self, tmp_path: Path) -> None:
        with Listener(tmp_path / "s", b"HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\n\r\nOK"):
            client, reason = connect({"DOCKER_HOST": f"unix://{tmp_path}/s"})
        assert client is not None
        assert client.api.api_version == "1.41"
        assert reason == ""
        client.close()
