"""Looking and choosing: the machine is probed once, and what a request comes to on it is chosen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aligntune.spec import RunSpec, is_local
from aligntune_run import images
from aligntune_run.choose import Outcome, choose
from aligntune_run.engines import Engine
from aligntune_run.engines.connect import connect
from aligntune_run.host import Host, ImageState, probe, probe_engine
from aligntune_run.models import ModelFacts, read_hub_model, read_model


@dataclass(frozen=True)
class Obtaining:
    """How what is missing may be had.

    Attributes:
        find_links: folders or pages with wheels that no index has.
        agree: is asked before gigabytes are fetched, with their size in the question.
        wait: whether a GPU that another run has is waited for.
    """

    find_links: tuple[str, ...] = ()
    agree: Callable[[str], bool] = lambda question: True
    wait: bool = False


@dataclass(frozen=True)
class Decided:
    """What a request comes to here.

    Attributes:
        model: what is known of the model; None where none is loaded.
        engine: makes the engine of a kind, ``docker`` or ``process``.
        memory: what there is, in bytes.
    """

    outcome: Outcome
    host: Host
    model: ModelFacts | None
    engine: Callable[[str], Engine]
    memory: int


def decide(spec: RunSpec, obtaining: Obtaining, model: str | None) -> Decided:
    """Look at the machine and choose.

    Args:
        spec: the request.
        obtaining: how an image or venv that is missing may be had.
        model: folder or hub id that is loaded; None where none is.

    Raises:
        AligntuneError: what is named cannot be looked at; that nothing can run it is an outcome.
    """
    known = None if model is None else read_model(model)
    client, reason = (None, "--engine process") if spec.engine == "process" else connect()
    engine = probe_engine(client, reason)
    host = probe(engine, _images(spec, client, obtaining))
    if model and host.gpus and spec.backend != "trl" and not is_local(model):
        # Only the choice between backends needs to know, and it is only open on a GPU.
        revision = spec.model.revision
        known = read_hub_model(model, revision, host.hub_cache, os.environ, host.token)
    outcome = choose(spec, host, known, images.facts(), wait=obtaining.wait)
    total = min(filter(None, (engine.memory, host.memory)))
    return Decided(outcome, host, known, lambda kind: _engine(kind, host, client, obtaining), total)


def _images(spec: RunSpec, client: Any | None, obtaining: Obtaining) -> tuple[ImageState, ...]:
    """The images there are to choose from: the user's own if one is named, else the pinned."""
    if client is not None and spec.image:
        return (images.derived_state(client, spec.image),)
    return images.states(client, spec.pull, obtaining.find_links)


def _engine(kind: str, host: Host, client: Any, obtaining: Obtaining) -> Engine:
    find_links = obtaining.find_links
    if kind == "docker":
        from aligntune_run.engines.docker import DockerEngine

        return DockerEngine(client, host, find_links=find_links, agree=obtaining.agree)
    from aligntune_run.engines.process import ProcessEngine

    return ProcessEngine(host, find_links=find_links, agree=obtaining.agree)
