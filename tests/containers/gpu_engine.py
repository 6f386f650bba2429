"""An engine that passes GPUs where there are none: a dockerd of its own with a stand-in for
NVIDIA's hook on its path, and a tiny image whose worker has its GPU for as long as the test says.

dockerd has a driver for NVIDIA's GPUs if it finds the hook when it starts. It then puts what was
asked for into the container's environment and runs the hook before the container's own program.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.errors import DockerException
from tests.containers.runs import SOCKET
from tests.helpers.needs import lacking

from aligntune import contract
from aligntune_run.engines.docker.arguments import ENTRY_POINT
from aligntune_run.host.docker_info import GPU_HOOK

PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

IMAGE = "aligntune-stand-in:1"

HOOK = """#!{python} -I
import json, pathlib, sys
state = json.load(sys.stdin)
config = json.loads(pathlib.Path(state["bundle"], "config.json").read_text())
variables = dict(value.partition("=")[::2] for value in config["process"]["env"])
asked = {{
    "words": sys.argv[1:],
    "container": state["id"],
    "devices": variables.get("NVIDIA_VISIBLE_DEVICES"),
    "capabilities": variables.get("NVIDIA_DRIVER_CAPABILITIES"),
}}
with open({log!r}, "a") as file:
    file.write(json.dumps(asked) + "\\n")
"""

WORKER = r"""
#include <stdio.h>
#include <unistd.h>

int main(void) {
    FILE *events = fopen("/run-dir/events.jsonl", "a");
    if (!events)
        return 5;
    fputs("{\"time\": 0, \"event\": \"note\", \"message\": \"at work\"}\n", events);
    fclose(events);
    while (access("/run-dir/enough", F_OK))
        usleep(20000);
    return 0;
}
"""


class GpuEngine:
    """The engine's socket, a client of it, and what its hook was asked for.

    Attributes:
        variables: lead a command to this engine; the hook is on its path as on any machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.log = folder / "hook.log"
        self.variables = {
            "DOCKER_HOST": f"unix://{self.socket}",
            "PATH": os.pathsep.join([str(folder / "bin"), PATH]),
        }
        self.client: DockerClient

    def asked(self) -> list[dict[str, Any]]:
        """What the hook was run with, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def container_of(self, run: Path) -> dict[str, Any]:
        """What the engine says of a run's container, which may be at work before it says so."""
        label = f"{contract.LABEL_RUN_DIR}={run}"
        (found,) = self.client.api.containers(all=True, filters={"label": label})
        return dict(self.client.api.inspect_container(found["Id"]))


@contextmanager
def gpu_engine(folder: Path) -> Iterator[GpuEngine]:
    """The engine in an empty folder, of which the path is short enough for a socket's."""
    if os.geteuid() != 0:
        pytest.skip("an engine with a stand-in for NVIDIA's hook is only started by root")
    dockerd, compiler = shutil.which("dockerd", path=PATH), shutil.which("cc")
    if dockerd is None:
        pytest.skip("there is no dockerd here to start with a stand-in for NVIDIA's hook")
    if compiler is None:
        lacking("there is no C compiler (cc), which makes the stand-in for the worker")
    made = GpuEngine(folder)
    _make_hook(folder / "bin", made.log)
    words = _words(dockerd, folder)
    with (
        (folder / "dockerd.log").open("w") as log,
        subprocess.Popen(words, env=os.environ | made.variables, stderr=log) as daemon,
    ):
        try:
            made.client = _connect(made, daemon)
            _import(made.client, _compile(compiler, folder))
            yield made
            for container in made.client.containers.list(all=True):
                container.remove(force=True)
        finally:
            daemon.terminate()


def _words(dockerd: str, folder: Path) -> list[str]:
    """Apart from the machine's own engine in everything, and without a network.

    It has a network namespace of its own, as a dockerd without a bridge removes ``docker0``, which
    is the other's.
    """
    return [
        "unshare",
        "--net",
        dockerd,
        f"--host=unix://{folder}/docker.sock",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/docker.pid",
        "--storage-driver=vfs",
        "--bridge=none",
        "--iptables=false",
        "--containerd-namespace=aligntune-tests",
        "--containerd-plugins-namespace=aligntune-tests-plugins",
    ]


def _connect(made: GpuEngine, daemon: subprocess.Popen[bytes]) -> DockerClient:
    until(made.socket.exists, "dockerd makes its socket")
    os.chown(made.socket, 0, SOCKET.stat().st_gid)
    made.socket.chmod(0o660)
    client = DockerClient(base_url=made.variables["DOCKER_HOST"])

    def answers() -> bool:
        assert daemon.poll() is None, (made.folder / "dockerd.log").read_text()[-2000:]
        try:
            return bool(client.ping())
        except (DockerException, OSError):
            return False

    until(answers, "dockerd answers")
    return client


def _make_hook(folder: Path, log: Path) -> None:
    folder.mkdir()
    hook = folder / GPU_HOOK
    hook.write_text(HOOK.format(python=os.path.realpath(sys.executable), log=str(log)))
    hook.chmod(0o755)


def _compile(compiler: str, folder: Path) -> Path:
    source, program = folder / "worker.c", folder / ENTRY_POINT
    source.write_text(WORKER)
    words = [compiler, "-static", "-Wall", "-Werror", "-o", str(program), str(source)]
    subprocess.run(words, check=True)
    return program


def _import(client: DockerClient, program: Path) -> None:
    """An image of nothing but the worker, with the labels of the contract."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(_for_all("bin", type=tarfile.DIRTYPE))
        with program.open("rb") as file:
            tar.addfile(_for_all(f"bin/{program.name}", size=program.stat().st_size), file)
    labels = {
        contract.LABEL_CONTRACT: str(contract.CONTRACT_VERSION),
        contract.LABEL_BACKEND: "trl",
        contract.LABEL_FLAVOUR: "cuda",
        contract.LABEL_LOCK: "0" * 64,
    }
    changes = [f"LABEL {name}={value}" for name, value in labels.items()]
    name, _, tag = IMAGE.partition(":")
    client.api.import_image_from_data(
        packed.getvalue(), repository=name, tag=tag, changes=[*changes, "ENV PATH=/bin"]
    )


def _for_all(name: str, **values: Any) -> tarfile.TarInfo:
    """An entry that any user may read and run."""
    entry = tarfile.TarInfo(name)
    entry.mode = 0o755
    for key, value in values.items():
        setattr(entry, key, value)
    return entry


def until(holds: Callable[[], bool], what: str, seconds: float = 600) -> None:
    """Wait for something that happens by itself."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.05)
