"""Looking and choosing: the machine is probed once, and what a request comes to on it is chosen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aligntune.spec.run_spec import RunSpec, is_local
from aligntune_run import images
from aligntune_run.engines import gpu_leases
from aligntune_run.engines.base import Engine, EngineContext
from aligntune_run.engines.registry import ENGINES, may_use_containers
from aligntune_run.host.docker_client import connect
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.gpus import probe_gpus
from aligntune_run.host.probe import probe
from aligntune_run.host.types import Host, ImageState
from aligntune_run.models.facts import ModelFacts
from aligntune_run.models.hub import read_hub_model
from aligntune_run.plan import Choice, Finding, Plan
from aligntune_run.planning import preflight
from aligntune_run.selection.select import Outcome, choose


@dataclass(frozen=True)
class Obtaining:
    """How what is missing may be had.

    Attributes:
        find_links: folders or pages with wheels that no index has.
        agree: is asked before gigabytes are fetched, with their size in the question.
        wait: for a GPU that another run has, instead of refusing.
    """

    find_links: tuple[str, ...] = ()
    agree: Callable[[str], bool] = lambda question: True
    wait: bool = False


@dataclass(frozen=True)
class Prepared:
    """A plan, and the engine that can carry it out on this host.

    Attributes:
        look: the host as it is now, by what other runs have of it.
        choose: what would be chosen for the same request on the host as it is then.
        wait: for a GPU that another run has, instead of refusing.
    """

    plan: Plan
    host: Host
    engine: Engine
    look: Callable[[], Host]
    choose: Callable[[Host], Choice]
    wait: bool = False


@dataclass(frozen=True)
class Decided:
    """What a request comes to here.

    Attributes:
        model: what is known of the model; None where none is loaded.
        engine: makes an engine by its name.
        look: as in :class:`Prepared`.
        choose: the same.
        wait: the same.
    """

    outcome: Outcome
    host: Host
    model: ModelFacts | None
    engine: Callable[[str], Engine]
    look: Callable[[], Host]
    choose: Callable[[Host], Choice]
    wait: bool = False

    def prepared(self, plan: Plan) -> Prepared:
        """The plan that was made of this, ready to be carried out."""
        engine = self.engine(plan.choice.engine)
        return Prepared(plan, self.host, engine, self.look, self.choose, self.wait)


def decide(
    spec: RunSpec, obtaining: Obtaining, model: str | None, run_dir: Path | None = None
) -> Decided:
    """Look at the machine and choose.

    Args:
        spec: the request.
        obtaining: how an image or venv that is missing may be had.
        model: folder or hub id that is loaded; None where none is.
        run_dir: where a training writes; with it everything that the training reads is looked at
            too, and whether it fits in memory. None for what does not train.

    Raises:
        AligntuneError: what is named cannot be looked at; that nothing can run it is an outcome.
    """
    contained = may_use_containers(spec.engine)
    client, reason = connect() if contained else (None, f"--engine {spec.engine}")
    host = probe(probe_engine(client, reason), _images(spec, client, obtaining))
    known, findings = _inputs(spec, host, model, run_dir)
    # A process is not to take what a container has: where there is an engine, it is asked.
    seen = client if contained or not host.gpus else connect()[0]

    def look() -> Host:
        now = {gpu.uuid: gpu for gpu in probe_gpus().found} if host.gpus else {}
        gpus = tuple(now.get(gpu.uuid, gpu) for gpu in host.gpus)
        return gpu_leases.marked(replace(host, gpus=gpus), seen)

    def outcome_on(host: Host) -> Outcome:
        return choose(spec, host, known, images.facts(), findings, trains=run_dir is not None)

    now = gpu_leases.marked(host, seen)
    context = EngineContext(now, client, obtaining.find_links, obtaining.agree)
    outcome = outcome_on(now)
    if obtaining.wait and outcome.choice is None and any(gpu.leased for gpu in now.gpus):
        outcome = outcome_on(gpu_leases.released(now))  # what it waits for
    return Decided(
        outcome,
        now,
        known,
        engine=lambda name: ENGINES[name].make(context),
        look=look,
        choose=lambda host: outcome_on(host).require(),
        wait=obtaining.wait,
    )


def _inputs(
    spec: RunSpec, host: Host, model: str | None, run_dir: Path | None
) -> tuple[ModelFacts | None, tuple[Finding, ...]]:
    """What is known of the model, and what else was seen of a training's inputs."""
    if run_dir is not None:
        seen = preflight.look(spec, run_dir, host.hub_cache, os.environ, host.token)
        return seen.model, seen.findings
    if model is None:
        return None, ()
    there = ModelFacts()
    if host.gpus and spec.backend != "trl" and not is_local(model):
        # Only the choice between backends needs to know, and it is only open on a GPU.
        revision = spec.model.revision
        there = read_hub_model(model, revision, host.hub_cache, os.environ, host.token)
    known, findings = preflight.look_at_model(model, there)
    return known, tuple(finding for finding in findings if finding.error)


def _images(spec: RunSpec, client: Any | None, obtaining: Obtaining) -> tuple[ImageState, ...]:
    """The images there are to choose from: the user's own if one is named, else the pinned."""
    if client is not None and spec.image:
        return (images.derived_state(client, spec.image),)
    return images.states(client, spec.pull, obtaining.find_links)
