"""Containers that the tests themselves start, with testcontainers: each is removed at its end.

Ryuk, which removes the containers of tests that were killed, is an image that cannot be pulled
everywhere. :func:`removed_at_exit` does the same with a shell.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

testcontainers_config.ryuk_disabled = True

CONFINED: dict[str, Any] = {
    "network": "none",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "exec,mode=1777", "/cache": "exec,mode=1777"},
}
"""As a training container is."""

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Tiny models gain nothing from more, and two test workers with two threads each wait for them."""


@contextmanager
def removed_at_exit() -> Iterator[None]:
    """This process's containers are removed when the block ends or the process is killed.

    Either closes the pipe that the shell waits on.
    """
    mine = f"docker ps --all --quiet --filter label={LABEL_SESSION_ID}={SESSION_ID}"
    script = f"cat; {mine} | xargs --no-run-if-empty docker rm --force --volumes"
    shell = ["sh", "-c", script]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=nowhere, start_new_session=True):
        yield


@contextmanager
def container(
    image: str,
    command: Sequence[str | Path],
    *,
    volumes: Mapping[Path, tuple[str, str]] | None = None,
    environment: Mapping[str, str] | None = None,
    tmpfs: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[DockerContainer]:
    """A started container.

    Args:
        image: its name or id.
        command: the words after the entry point.
        volumes: by folder of the host, its place inside and its mode.
        environment: variables besides :data:`ONE_THREAD`.
        tmpfs: options by place.
        options: others of the Docker SDK's ``containers.create``.
    """
    made = DockerContainer(image, env={**ONE_THREAD, **(environment or {})})
    made.with_command([str(word) for word in command]).with_kwargs(**options)
    made.tmpfs.update(tmpfs or {})
    for folder, (place, mode) in (volumes or {}).items():
        made.with_volume_mapping(folder, place, mode)
    with made:
        yield made


def output_of(image: str, command: Sequence[str | Path], **options: Any) -> str:
    """What a container prints until it ends, which it must do with code 0."""
    with container(image, command, **options) as made:
        code = made.wait()
        out, err = (str(stream.decode()) for stream in made.get_logs())
    assert code == 0, f"code {code}\n{out[-4000:]}\n{err[-8000:]}"
    return out
