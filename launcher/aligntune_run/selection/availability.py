"""What there is to run on here: each backend, and why not. Looks, and changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aligntune.algorithms import BACKENDS
from aligntune.api.runner import BackendStatus
from aligntune_run import images
from aligntune_run.engines import gpu_leases
from aligntune_run.host.docker_client import connect
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.probe import probe
from aligntune_run.host.types import Host
from aligntune_run.plan import Verdict
from aligntune_run.selection.select import bare_request, choose

OF_THE_PLACE = ("gpu", "driver", "capability", "image", "storage")
"""Rules of a backend that look at the machine alone, whatever is asked for."""


@dataclass(frozen=True)
class Status:
    """Every backend's, by name, and the machine that it is of."""

    backends: dict[str, BackendStatus]
    host: Host

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; of the caller's variables and token only whether there are any."""
        host = asdict(self.host)
        host["token"] = self.host.token is not None
        host["environment"] = sorted(self.host.environment)
        return {"backends": self.backends, "host": host}


def look() -> Status:
    """See what is here. No backend is imported, no image obtained, no container started."""
    client, reason = connect()
    found = images.states(client, "missing")
    host = gpu_leases.mark_leased(probe(probe_engine(client, reason), found), client)
    verdicts = choose(bare_request(), host, None, images.facts()).verdicts
    return Status({name: _of(name, verdicts) for name in BACKENDS}, host)


def _of(name: str, verdicts: tuple[Verdict, ...]) -> BackendStatus:
    """A backend can be had where no rule of the machine and none of its own stands in the way."""
    said = [
        one
        for one in verdicts
        if (not one.backend and one.rule != "lease")
        or (one.backend == name and one.rule in OF_THE_PLACE)
    ]
    missed = [one.evidence for one in said if not one.passed]
    image = next(one for one in said if one.rule == "image")
    return {
        "available": not missed,
        "reason": "; ".join(missed) or image.evidence,
        "verdicts": [asdict(one) for one in said],
    }
