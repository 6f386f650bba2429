"""Running any program in a backend's environment, as there is no torch on the host."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligntune.errors import EngineError, ImageError
from aligntune_run import images
from aligntune_run.choose import choose_engine, choose_gpus, choose_image, require_supported
from aligntune_run.engines import Say
from aligntune_run.engines.connect import connect
from aligntune_run.engines.container import (
    IDENTITY,
    caller_groups,
    confinement,
    device_requests,
)
from aligntune_run.engines.mounts import Bind
from aligntune_run.host import Host, memory_total, probe, probe_engine
from aligntune_run.plan import memory_limit
from aligntune_run.programs import passthrough
from aligntune_run.run import Obtaining

if TYPE_CHECKING:
    from docker import DockerClient


def run_program(
    words: Sequence[str],
    *,
    backend: str,
    engine: str,
    folders: Sequence[Path],
    obtaining: Obtaining,
    say: Say,
) -> int:
    """Run a program in a backend's image or its twin venv, as the caller; its exit code.

    Args:
        words: the program and its arguments; ``python`` is the backend's.
        backend: whose environment.
        engine: auto, docker or process.
        folders: seen by the program at their own path and writable, beside the current directory.
        obtaining: how a missing image or venv may be had.
        say: is told what is obtained.

    Raises:
        AligntuneError: the environment cannot be had.
    """
    client, reason = (None, "--engine process") if engine == "process" else connect()
    host = probe(probe_engine(client, reason), images.states(client, "missing"))
    require_supported(host)
    chosen = choose_engine(engine, None, host)
    gpus = choose_gpus("auto", host, chosen)
    state = choose_image(host, backend, gpus)
    if state is None or state.how is None:
        raise ImageError(f"no environment of {backend}: {state.reason if state else 'unknown'}")
    recipe = images.recipe(backend, state.flavour)
    if chosen == "process":
        return _in_process(words, recipe, host, obtaining, say)
    assert client is not None
    image = images.obtain(
        client, recipe, find_links=obtaining.find_links, say=say, agree=obtaining.agree
    )
    uuids = tuple(gpu.uuid for gpu in gpus)
    return _in_container(words, client, image, host, folders, uuids)


def _in_process(
    words: Sequence[str], recipe: images.Recipe, host: Host, obtaining: Obtaining, say: Say
) -> int:
    from aligntune_run.engines.process import DROPPED, ProcessEngine, without

    engine = ProcessEngine(host, find_links=obtaining.find_links)
    engine.make(recipe, say)
    environment = without(os.environ, DROPPED) | engine.variables(recipe)
    return passthrough(["/usr/bin/env", *words], env=environment)


def _in_container(
    words: Sequence[str],
    client: DockerClient,
    image: str,
    host: Host,
    folders: Sequence[Path],
    gpus: tuple[str, ...],
) -> int:
    from docker.errors import DockerException

    from aligntune_run.engines.docker import for_sdk

    memory = memory_limit(None, min(filter(None, (host.engine.memory, memory_total()))))
    seen = dict.fromkeys(str(folder.absolute()) for folder in (Path.cwd(), *folders))
    arguments = {
        "image": image,
        "entrypoint": list(words[:1]),
        "command": list(words[1:]),
        "working_dir": str(Path.cwd()),
        "environment": {**IDENTITY, "HF_HUB_OFFLINE": "1"},
        **confinement(host, caller_groups(host), memory),
        "network_mode": "none",
        "mounts": [Bind(folder, folder, read_only=False).to_dict() for folder in seen],
        "device_requests": device_requests(gpus),
    }
    try:
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
    except DockerException as error:
        raise EngineError(f"the engine refused: {error}") from error
