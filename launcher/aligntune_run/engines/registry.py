"""Every engine by its name in a spec. A new engine is a module with a ``KIND`` and a line here."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from aligntune.errors import EngineError, SpecError

if TYPE_CHECKING:
    from aligntune_run.engines.base import Engine, EngineKind
    from aligntune_run.host.types import Host

ENGINES = {
    "docker": "aligntune_run.engines.docker.engine",
    "process": "aligntune_run.engines.local.engine",
}
"""Name -> module, which is imported when it is used. ``auto`` takes the first that can run here."""


@cache
def engine_kind(name: str) -> EngineKind:
    """An engine, as choosing and planning see it.

    Raises:
        SpecError: there is no such engine.
    """
    if name not in ENGINES:
        from aligntune.spec.suggest import nearest

        raise SpecError(
            f"there is no engine {name!r}{nearest(name, list(ENGINES))}",
            f"Use engine=auto or one of {', '.join(ENGINES)}",
        )
    kind: EngineKind = import_module(ENGINES[name]).KIND
    return kind


def pick_engine(wanted: str, host: Host) -> str:
    """The engine that a spec asks for if it can run here, else the first that can."""
    names = [name for name in ENGINES if not engine_kind(name).problem(host)]
    return wanted if wanted in names else names[0]


def may_use_containers(wanted: str) -> bool:
    """Whether what a spec asks for can come to containers."""
    return wanted == "auto" or engine_kind(wanted).in_containers


def find_engine(handle: str) -> Engine:
    """The engine of a recorded handle.

    Raises:
        EngineError: no engine has such handles, or the engine cannot be reached.
    """
    from aligntune_run.engines.base import EngineContext
    from aligntune_run.host.docker_client import connect
    from aligntune_run.host.docker_info import probe_engine
    from aligntune_run.host.probe import probe

    name = handle.partition(":")[0]
    if name not in ENGINES:
        raise EngineError(f"no engine has the handle {handle!r}", "Update aligntune-run")
    kind = engine_kind(name)
    client, reason = connect() if kind.in_containers else (None, "")
    host = probe(probe_engine(client, reason), ())
    if problem := kind.problem(host):
        raise EngineError(problem, "`aligntune-run doctor` checks the engine")
    return kind.make(EngineContext(host, client))
