"""Which backends are available here, and why one is not. Looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aligntune.algorithms import BACKENDS
from aligntune.api.runner import BackendStatus
from aligntune_run import images
from aligntune_run.check import Verdict
from aligntune_run.engines import gpu_leases
from aligntune_run.host.docker_client import connect
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.probe import probe
from aligntune_run.host.types import Host
from aligntune_run.selection.select import bare_request, gpu_options, judge_machine, situate


@dataclass(frozen=True)
class Status:
    """The status of every backend, by name, and the machine it is for."""

    backends: dict[str, BackendStatus]
    host: Host

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the values of the caller's variables or token."""
        host = asdict(self.host)
        host["token"] = self.host.token is not None
        host["environment"] = sorted(self.host.environment)
        return {"backends": self.backends, "host": host}


def look() -> Status:
    """Look at this machine. It imports no backend, gets no image and starts no container."""
    client, reason = connect()
    states = images.states(client, "missing")
    host = gpu_leases.mark_leased(probe(probe_engine(client, reason), states), client)
    spec = bare_request()
    options = [
        judge_machine(situate(spec, host, gpus), images.facts())
        for gpus in gpu_options(spec.gpus, host.gpus)
    ]
    return Status({name: _status_of(name, options) for name in BACKENDS}, host)


def _status_of(name: str, options: Sequence[tuple[Verdict, ...]]) -> BackendStatus:
    """A backend is available if no rule of the machine and none of its own fails, on any GPU."""
    own = [[one for one in verdicts if one.backend in ("", name)] for verdicts in options]
    relevant = next((verdicts for verdicts in own if all(one.passed for one in verdicts)), own[0])
    failures = [verdict.evidence for verdict in relevant if not verdict.passed]
    image = next(verdict for verdict in relevant if verdict.rule == "image")
    return {
        "available": not failures,
        "reason": "; ".join(failures) or image.evidence,
        "verdicts": [asdict(verdict) for verdict in relevant],
    }
