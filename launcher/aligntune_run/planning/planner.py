"""Inspecting and choosing: the machine is inspected once, and the request decided on that."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aligntune.spec.run_spec import RunSpec, is_local
from aligntune_run import images
from aligntune_run.check import Verdict
from aligntune_run.engines import gpu_leases
from aligntune_run.engines.base import Engine, EngineContext
from aligntune_run.engines.registry import engine_kind, may_use_containers
from aligntune_run.host.docker_client import connect
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.gpus import probe_gpus
from aligntune_run.host.probe import probe
from aligntune_run.host.types import Host, ImageState
from aligntune_run.models.facts import ModelFacts
from aligntune_run.models.hub import read_hub_model
from aligntune_run.plan import Choice, Plan
from aligntune_run.planning import preflight
from aligntune_run.selection.select import Outcome, choose

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class Obtaining:
    """How missing images, venvs and GPUs may be obtained.

    Attributes:
        find_links: folders or pages with wheels that no index has.
        agree: is asked before gigabytes are downloaded, with their size in the question.
        wait: wait for a GPU that another run holds, instead of refusing.
    """

    find_links: tuple[str, ...] = ()
    agree: Callable[[str], bool] = lambda question: True
    wait: bool = False


@dataclass(frozen=True)
class Inspection:
    """What was seen before choosing.

    Attributes:
        host: the machine, with the runs that hold its GPUs.
        model: what is known of the model; None if none is loaded.
        findings: what was found in the other inputs of a training.
    """

    host: Host
    model: ModelFacts | None = None
    findings: tuple[Verdict, ...] = ()


class Planner:
    """Decides one request on this host, and decides it again on the host as it is later.

    Args:
        spec: the request.
        inspection: what was seen.
        obtaining: how what is missing may be obtained.
        client: of the host's container engine, whose containers may hold GPUs; None if it is not
            reachable, or if the request cannot use containers and there are no GPUs.
        trains: whether the request is a training, which has to fit in memory.

    Attributes:
        inspection: what was seen.
        outcome: what was chosen, or why nothing can run the request.
        waits: whether a run waits for a GPU that another run holds.
    """

    def __init__(
        self,
        spec: RunSpec,
        inspection: Inspection,
        obtaining: Obtaining,
        *,
        client: DockerClient | None = None,
        trains: bool = True,
    ) -> None:
        self.inspection = inspection
        self.waits = obtaining.wait
        self._spec = spec
        self._obtaining = obtaining
        self._client = client
        self._trains = trains
        self._engines: dict[str, Engine] = {}
        self.outcome = self._decide(inspection.host)
        held = any(gpu.leased for gpu in inspection.host.gpus)
        if self.waits and self.outcome.choice is None and held:
            self.outcome = self._decide(gpu_leases.without_leases(inspection.host))

    def look_again(self) -> Host:
        """The host with its GPUs as they are now, and the runs that hold them."""
        host = self.inspection.host
        now = {gpu.uuid: gpu for gpu in probe_gpus().found} if host.gpus else {}
        gpus = tuple(now.get(gpu.uuid, gpu) for gpu in host.gpus)
        return gpu_leases.mark_leased(replace(host, gpus=gpus), self._client)

    def choose_on(self, host: Host) -> Choice:
        """What is chosen for the same request on the host as it is now.

        Raises:
            AligntuneError: nothing there can run it.
        """
        return self._decide(host).require()

    def engine(self, name: str) -> Engine:
        """An engine by its name; always the same object."""
        if name not in self._engines:
            find_links, agree = self._obtaining.find_links, self._obtaining.agree
            context = EngineContext(self.inspection.host, self._client, find_links, agree)
            self._engines[name] = engine_kind(name).make(context)
        return self._engines[name]

    def _decide(self, host: Host) -> Outcome:
        model, findings = self.inspection.model, self.inspection.findings
        return choose(self._spec, host, model, images.facts(), findings, trains=self._trains)


@dataclass(frozen=True)
class Prepared:
    """A plan, and the planner that decided it."""

    plan: Plan
    planner: Planner

    @property
    def host(self) -> Host:
        return self.planner.inspection.host

    @property
    def engine(self) -> Engine:
        """The engine that carries out the plan."""
        return self.planner.engine(self.plan.choice.engine)


def inspect(
    spec: RunSpec, obtaining: Obtaining, model: str | None, run_dir: Path | None = None
) -> Planner:
    """Inspect the machine and the request's inputs, and decide.

    Args:
        spec: the request.
        obtaining: how what is missing may be obtained.
        model: folder or hub id that is loaded; None if none is.
        run_dir: where a training writes. With it, everything that the training reads is inspected
            too, and whether it fits in memory. None for what does not train.

    Raises:
        AligntuneError: what is named cannot be inspected. That nothing can run it is an outcome.
    """
    contained = may_use_containers(spec.engine)
    client, reason = connect() if contained else (None, f"--engine {spec.engine}")
    host = probe(probe_engine(client, reason), _images(spec, client, obtaining))
    known, findings = _inputs(spec, host, model, run_dir)
    # A process must not take a GPU that a container holds, so the engine is asked even then.
    lease_client = client if contained or not host.gpus else connect()[0]
    inspection = Inspection(gpu_leases.mark_leased(host, lease_client), known, findings)
    return Planner(
        spec,
        inspection,
        obtaining,
        client=lease_client,
        trains=run_dir is not None,
    )


def _inputs(
    spec: RunSpec, host: Host, model: str | None, run_dir: Path | None
) -> tuple[ModelFacts | None, tuple[Verdict, ...]]:
    """What is known of the model, and the findings in a training's other inputs."""
    if run_dir is not None:
        return preflight.look(spec, run_dir, host.hub_cache, os.environ, host.token)
    if model is None:
        return None, ()
    on_hub = ModelFacts()
    if host.gpus and spec.backend != "trl" and not is_local(model):
        # Only the choice between backends needs it, and only a GPU leaves that choice.
        revision = spec.model.revision
        on_hub = read_hub_model(model, revision, host.hub_cache, os.environ, host.token)
    known = preflight.read_local(model, on_hub)
    return known, preflight.refusals(known)


def _images(
    spec: RunSpec, client: DockerClient | None, obtaining: Obtaining
) -> tuple[ImageState, ...]:
    """The images to choose from: the user's own if the spec names one, else the pinned ones."""
    if client is not None and spec.image:
        return (images.derived_state(client, spec.image),)
    return images.states(client, spec.pull, obtaining.find_links)
