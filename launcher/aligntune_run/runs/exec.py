"""Run any program in a backend's environment: the host has no torch."""

from __future__ import annotations

from aligntune.errors import ImageError
from aligntune_run import images
from aligntune_run.engines import gpu_leases
from aligntune_run.engines.base import EngineContext, Environment, Say
from aligntune_run.engines.registry import engine_kind, may_use_containers
from aligntune_run.host.docker_client import connect
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.probe import probe
from aligntune_run.planning.planner import Obtaining
from aligntune_run.selection.rules import MACHINE
from aligntune_run.selection.select import bare_request, gpu_options, pick_image, require, situate


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
    states = images.states(client, "missing", obtaining.find_links)
    host = probe(probe_engine(client, reason), states)
    lease_client = client if contained or not host.gpus else connect()[0]
    host = gpu_leases.mark_leased(host, lease_client)
    best = gpu_options(wanted, host.gpus)[0]
    at = situate(bare_request(backend, engine, wanted), host, best)
    require(MACHINE.judge(at))
    state = pick_image(host.images, backend, at.gpus)
    if state is None or state.how is None:
        raise ImageError(
            f"no environment of {backend}: {state.reason if state else 'unknown'}",
            "`aligntune-run images list` shows what is available",
        )
    context = EngineContext(host, lease_client, obtaining.find_links, obtaining.agree)
    gpus = tuple(gpu.uuid for gpu in at.gpus)
    recipe = images.recipe(backend, state.flavour)
    return engine_kind(at.engine).make(context).environment(recipe, gpus, say)
