"""Any program in a container of a backend's image."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligntune import contract
from aligntune_run.engines.docker.arguments import (
    IDENTITY,
    OFFLINE,
    caller_groups,
    confinement,
    device_requests,
)
from aligntune_run.engines.docker.mounts import Bind
from aligntune_run.engines.gpu_leases import LocalGpus
from aligntune_run.host.docker_client import engine_errors
from aligntune_run.host.resources import memory_limit
from aligntune_run.host.types import Host

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class ContainerEnvironment:
    """An image in the container engine.

    Attributes:
        gpus: UUIDs of the GPUs that a program gets.
        image: the image's id.
        code: the folder of the launcher's code, which is mounted over the image's.
    """

    client: DockerClient
    host: Host
    gpus: tuple[str, ...]
    image: str
    code: Path

    def run(self, words: Sequence[str], folders: Sequence[Path]) -> int:
        """See :class:`~aligntune_run.engines.base.Environment`."""
        with LocalGpus(self.host, self.client).held(self.gpus, f"{words[0]} (pid {os.getpid()})"):
            return self._run(self._arguments(words, folders))

    def _arguments(self, words: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
        mounted = dict.fromkeys(str(folder.absolute()) for folder in (Path.cwd(), *folders))
        cache = self.host.cache / "worker"
        cache.mkdir(parents=True, exist_ok=True)
        mounts = [Bind(folder, folder, read_only=False) for folder in mounted]
        mounts.append(Bind(str(cache), contract.CACHE_DIR, read_only=False))
        mounts.append(Bind(str(self.code), contract.CODE_DIR))
        memory = memory_limit(None, self.host.memory_usable)
        return {
            "image": self.image,
            "entrypoint": list(words[:1]),
            "command": list(words[1:]),
            "working_dir": str(Path.cwd()),
            "environment": {**IDENTITY, **OFFLINE},
            **confinement(self.host, caller_groups(self.host), memory),
            "network_mode": "none",
            "mounts": [mount.to_dict() for mount in mounts],
            "device_requests": device_requests(self.gpus, self.host),
            "labels": {contract.LABEL_GPUS: ",".join(self.gpus)} if self.gpus else {},
        }

    def _run(self, arguments: Mapping[str, Any]) -> int:
        with engine_errors():
            container = self.client.containers.create(**for_sdk(arguments))
            try:
                output = container.attach(stream=True, logs=True, demux=True)
                container.start()
                for out, err in output:
                    sys.stdout.buffer.write(out or b"")
                    sys.stdout.buffer.flush()
                    sys.stderr.buffer.write(err or b"")
                    sys.stderr.buffer.flush()
                return int(container.wait()["StatusCode"])
            finally:
                container.remove(force=True)


def for_sdk(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the API's mounts, which, unlike bind strings, create no folders."""
    mounts = [
        {
            "Type": mount["type"],
            "Source": mount["source"],
            "Target": mount["target"],
            "ReadOnly": mount["read_only"],
        }
        for mount in arguments["mounts"]
    ]
    return {**arguments, "mounts": mounts}
