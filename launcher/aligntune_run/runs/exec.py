"""Run any program in a backend's environment: the host has no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aligntune import contract
from aligntune.errors import ImageError
from aligntune_run import images
from aligntune_run.engines import gpu_leases
from aligntune_run.engines.base import Say
from aligntune_run.engines.docker.arguments import (
    IDENTITY,
    OFFLINE,
    TOKEN_VARIABLES,
    caller_groups,
    confinement,
    device_requests,
)
from aligntune_run.engines.docker.mounts import Bind
from aligntune_run.engines.registry import ENGINES, may_use_containers
from aligntune_run.host.docker_client import connect, engine_errors
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.probe import probe
from aligntune_run.host.resources import memory_limit
from aligntune_run.host.types import Host
from aligntune_run.images.code import lay_out_code
from aligntune_run.planning.planner import Obtaining
from aligntune_run.selection.rules import MACHINE
from aligntune_run.selection.select import bare_request, gpu_options, pick_image, require, situate
from aligntune_run.subprocesses import passthrough

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class Environment:
    """A backend's environment on this host: an image in an engine, or a venv.

    Attributes:
        image: the image's id; None for a venv.
        code: the folder of the launcher's code, which is mounted over the image's.
        variables: all variables of a program in the venv.
    """

    host: Host
    gpus: tuple[str, ...]
    client: DockerClient | None
    image: str | None
    code: Path | None
    variables: Mapping[str, str]


def obtain(backend: str, engine: str, wanted: str, obtaining: Obtaining, say: Say) -> Environment:
    """A backend's environment; it is made if it is not here yet.

    Args:
        backend: the backend.
        engine: as ``spec.engine``.
        wanted: ``auto`` for a GPU that no run holds, if the machine has any; ``0`` for none.
        obtaining: how it may be obtained.
        say: shows progress.

    Raises:
        AligntuneError: it is unavailable.
    """
    contained = may_use_containers(engine)
    client, reason = connect() if contained else (None, f"--engine {engine}")
    found = images.states(client, "missing", obtaining.find_links)
    host = probe(probe_engine(client, reason), found)
    seen = client if contained or not host.gpus else connect()[0]
    host = gpu_leases.mark_leased(host, seen)
    best = gpu_options(wanted, host.gpus)[0]
    at = situate(bare_request(backend, engine, wanted), host, best)
    require(MACHINE.judge(at))
    chosen, gpus = at.engine, at.gpus
    state = pick_image(host.images, backend, gpus)
    if state is None or state.how is None:
        raise ImageError(f"no environment of {backend}: {state.reason if state else 'unknown'}")
    uuids = tuple(gpu.uuid for gpu in gpus)
    recipe = images.recipe(backend, state.flavour)
    if client is None or not ENGINES[chosen].in_containers:
        from aligntune_run.engines.local.engine import ProcessEngine
        from aligntune_run.engines.local.venv import DROPPED, without

        process = ProcessEngine(host, find_links=obtaining.find_links, agree=obtaining.agree)
        process.make(recipe, say)
        dropped = (*DROPPED, *TOKEN_VARIABLES)
        variables = without(os.environ, dropped) | process.variables(recipe)
        return Environment(host, uuids, None, None, None, variables)
    image = images.obtain(
        client, recipe, find_links=obtaining.find_links, say=say, agree=obtaining.agree
    )
    return Environment(host, uuids, client, image, lay_out_code(recipe, host.cache), {})


def run_program(words: Sequence[str], environment: Environment, folders: Sequence[Path]) -> int:
    """Run a program as the caller, with this process's output; its exit code.

    Args:
        words: the program and its arguments; ``python`` is the backend's.
        environment: where it runs.
        folders: mounted writable at their own path, like the current directory.
    """
    with _lease(environment) as lease:
        lease.sign(f"{words[0]} (pid {os.getpid()})")
        if environment.client is None:
            program = ["/usr/bin/env", *words]
            return passthrough(program, env=environment.variables, descriptors=lease.descriptors)
        return _in_container(words, environment.client, environment, folders)


def _lease(environment: Environment) -> gpu_leases.Lease:
    gpus = [gpu for gpu in environment.host.gpus if gpu.uuid in environment.gpus]
    if not gpus:
        return gpu_leases.Lease()
    with gpu_leases.choosing():
        return gpu_leases.Lease.take(gpus)


def _in_container(
    words: Sequence[str],
    client: DockerClient,
    environment: Environment,
    folders: Sequence[Path],
) -> int:
    from aligntune_run.engines.docker.engine import for_sdk

    host = environment.host
    memory = memory_limit(None, host.memory_usable)
    seen = dict.fromkeys(str(folder.absolute()) for folder in (Path.cwd(), *folders))
    cache = host.cache / "worker"
    cache.mkdir(parents=True, exist_ok=True)
    mounts = [Bind(folder, folder, read_only=False) for folder in seen]
    mounts.append(Bind(str(cache), contract.CACHE_DIR, read_only=False))
    mounts.append(Bind(str(environment.code), contract.CODE_DIR))
    arguments = {
        "image": environment.image,
        "entrypoint": list(words[:1]),
        "command": list(words[1:]),
        "working_dir": str(Path.cwd()),
        "environment": {**IDENTITY, **OFFLINE},
        **confinement(host, caller_groups(host), memory),
        "network_mode": "none",
        "mounts": [mount.to_dict() for mount in mounts],
        "device_requests": device_requests(environment.gpus, host),
        "labels": {contract.LABEL_GPUS: ",".join(environment.gpus)} if environment.gpus else {},
    }
    with engine_errors():
        container = client.containers.create(**for_sdk(arguments))
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
