"""Every engine by its name in a spec. A new engine is a module with a ``KIND`` and a line here."""

from __future__ import annotations

from aligntune.errors import EngineError
from aligntune_run.engines.base import Engine, EngineContext, EngineKind
from aligntune_run.engines.docker import engine as docker
from aligntune_run.engines.local import engine as local
from aligntune_run.host.docker_client import connect
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.probe import probe
from aligntune_run.host.types import Host

ENGINES: dict[str, EngineKind] = {
    "docker": docker.KIND,
    "process": local.KIND,
}
"""``auto`` takes the first that can run on the host."""


def pick_engine(wanted: str, host: Host) -> str:
    """The engine that a spec asks for if it can run here, else the first that can."""
    names = [name for name, kind in ENGINES.items() if not kind.problem(host)]
    return wanted if wanted in names else names[0]


def may_use_containers(wanted: str) -> bool:
    """Whether what a spec asks for can come to containers."""
    return wanted == "auto" or ENGINES[wanted].in_containers


def find_engine(handle: str) -> Engine:
    """The engine of a recorded handle.

    Raises:
        EngineError: no engine has such handles, or the engine cannot be reached.
    """
    kind = ENGINES.get(handle.partition(":")[0])
    if kind is None:
        raise EngineError(f"no engine has the handle {handle!r}", "Update aligntune-run")
    client, reason = connect() if kind.in_containers else (None, "")
    host = probe(probe_engine(client, reason), ())
    if problem := kind.problem(host):
        raise EngineError(f"no container engine: {problem}")
    return kind.make(EngineContext(host, client))
