"""Checks of the container engine, our images in it, and containers left behind."""

from __future__ import annotations

from collections.abc import Iterator

from aligntune.errors import EngineError, ImageError
from aligntune.units import gib
from aligntune_run.check import Result, fails, passes, warns
from aligntune_run.doctor.checks.base import MACHINE
from aligntune_run.doctor.probe import Findings
from aligntune_run.images import recipe

ALIVE = ("running", "paused", "restarting")


@MACHINE.check("engine", EngineError)
def _engine(findings: Findings) -> Iterator[Result]:
    host_engine = findings.host.engine
    if host_engine.reachable:
        rootless = ", rootless" if host_engine.rootless else ""
        yield passes(f"{host_engine.kind} {host_engine.version} at {host_engine.address}{rootless}")
    elif not findings.no_venv:
        yield warns(
            f"{host_engine.reason}; runs are processes in a venv instead",
            "Start one to run in images: `sudo systemctl start docker`; see the README",
        )
    else:
        yield fails(
            f"{host_engine.reason}; {findings.no_venv.rstrip('.')}",
            "Start one: `sudo systemctl start docker`; see 'Container engine' in the README",
        )


@MACHINE.check("engine-network", EngineError)
def _bridge(findings: Findings) -> Iterator[Result]:
    if findings.no_bridge:
        yield fails(
            f"the engine's network bridge {findings.no_bridge} is missing: containers that fetch "
            "or build cannot start",
            "`sudo systemctl restart docker`",
        )


@MACHINE.check("buildkit", ImageError)
def _builder(findings: Findings) -> Iterator[Result]:
    if not findings.host.engine.reachable:
        return
    if not findings.no_builder:
        yield passes("a docker client with BuildKit is available")
        return
    what, _, remedy = findings.no_builder.partition(". ")
    missing = any(state.how is None for state in findings.host.images)
    yield (fails if missing else warns)(what, remedy or "Install docker-buildx")


@MACHINE.check("image", ImageError)
def _images(findings: Findings) -> Iterator[Result]:
    """One verdict per image; if no flavour of TRL is available, nothing can be trained."""
    states = findings.host.images
    available = {state.backend for state in states if state.how}
    for state in states:
        name = f"{state.backend} {state.flavour}"
        size = recipe(state.backend, state.flavour).expected_size
        space = f", {gib(size)} on disk" if size else ""
        command = f"`aligntune-run images build {state.backend} --flavour {state.flavour}`"
        if state.how == "present":
            yield passes(f"{name} is here: {state.ref}")
        elif state.how and not findings.host.engine.reachable:
            yield passes(f"{name}: a venv is made from its lock")
        elif state.how:
            way = "pulls" if state.how == "pull" else "builds"
            yield warns(f"{name} is not here; the first run {way} it{space}", command)
        else:
            what, _, remedy = state.reason.partition(". ")
            needed = state.backend not in available and state.backend == "trl"
            yield (fails if needed else warns)(f"{name} is unavailable: {what}", remedy or command)


@MACHINE.check("stale-images", ImageError)
def _stale(findings: Findings) -> Iterator[Result]:
    old = [image for image in findings.listed if image.stale]
    if old:
        yield warns(
            f"{len(old)} outdated {'image is' if len(old) == 1 else 'images are'} here",
            "`aligntune-run images prune`",
        )


@MACHINE.check("containers", EngineError)
def _containers(findings: Findings) -> Iterator[Result]:
    """Running containers are fine; an ended one stays only if its launcher was killed."""
    for container in findings.containers:
        name, state, run_dir = container.name, container.state, container.run_dir
        if state in ALIVE:
            yield passes(f"{name} is {state}: {container.phase} of {run_dir}")
        else:
            yield warns(
                f"{name} was left behind ({state}): {container.phase} of {run_dir}",
                f"`docker rm -f {name}`, then `aligntune-run --resume {run_dir}`",
            )
