"""Checks of the container engine, our images in it, and containers left behind."""

from __future__ import annotations

from collections.abc import Iterator

from aligntune.errors import EngineError, ImageError
from aligntune_run.doctor.checks.base import Checks, fail, gigabytes, good, warn
from aligntune_run.doctor.probe import Findings
from aligntune_run.images import recipe
from aligntune_run.plan import Verdict

ALIVE = ("running", "paused", "restarting")


def engine(found: Findings) -> Iterator[Verdict]:
    host_engine = found.host.engine
    if host_engine.reachable:
        rootless = ", rootless" if host_engine.rootless else ""
        yield good(f"{host_engine.kind} {host_engine.version} at {host_engine.address}{rootless}")
    elif not found.no_venv:
        yield warn(
            f"{host_engine.reason}; runs are processes in a venv instead",
            "Start one to run in images: `sudo systemctl start docker`; see the README",
        )
    else:
        yield fail(
            f"{host_engine.reason}; {found.no_venv.rstrip('.')}",
            "Start one: `sudo systemctl start docker`; see 'Container engine' in the README",
        )


def storage(found: Findings) -> Iterator[Verdict]:
    host_engine = found.host.engine
    if not host_engine.reachable or host_engine.storage_free is None:
        return
    wanted = [one.size or 0 for one in found.listed if one.state == "missing"]
    has = f"{host_engine.root} has {gigabytes(host_engine.storage_free)} free"
    if not wanted:
        yield good(f"{has}, and every image is here")
    elif host_engine.storage_free < max(wanted):
        yield fail(
            f"{has}; a missing image needs up to {gigabytes(max(wanted))}",
            "Free some space: `aligntune-run images prune`, `docker system prune`",
        )
    elif host_engine.storage_free < sum(wanted):
        yield warn(
            f"{has}; the missing images need up to {gigabytes(sum(wanted))} together",
            "Free some space: `aligntune-run images prune`, `docker system prune`",
        )
    else:
        yield good(f"{has}; images need up to {gigabytes(sum(wanted))} more")


def cgroup_driver(found: Findings) -> Iterator[Verdict]:
    host_engine = found.host.engine
    if not host_engine.reachable or not host_engine.cgroup_driver:
        return
    if host_engine.cgroup_driver == "systemd" and host_engine.gpu_way == "nvidia":
        yield warn(
            "systemd, with NVIDIA's runtime hook: `systemctl daemon-reload` takes the GPUs away "
            "from running containers",
            'Use CDI, or set "exec-opts": ["native.cgroupdriver=cgroupfs"] in '
            "/etc/docker/daemon.json and `sudo systemctl restart docker`",
        )
    else:
        yield good(host_engine.cgroup_driver)


def bridge(found: Findings) -> Iterator[Verdict]:
    if found.no_bridge:
        yield fail(
            f"the engine's network bridge {found.no_bridge} is missing: containers that fetch or "
            "build cannot start",
            "`sudo systemctl restart docker`",
        )


def builder(found: Findings) -> Iterator[Verdict]:
    if not found.host.engine.reachable:
        return
    if not found.no_builder:
        yield good("a docker client with BuildKit is available")
        return
    what, _, remedy = found.no_builder.partition(". ")
    missing = any(state.how is None for state in found.host.images)
    yield (fail if missing else warn)(what, remedy or "Install docker-buildx")


def images(found: Findings) -> Iterator[Verdict]:
    """One verdict per image; if no flavour of TRL is available, nothing can be trained."""
    states = found.host.images
    available = {state.backend for state in states if state.how}
    for state in states:
        name = f"{state.backend} {state.flavour}"
        size = recipe(state.backend, state.flavour).expected_size
        space = f", {gigabytes(size)} on disk" if size else ""
        command = f"`aligntune-run images build {state.backend} --flavour {state.flavour}`"
        if state.how == "present":
            yield good(f"{name} is here: {state.ref}")
        elif state.how and not found.host.engine.reachable:
            yield good(f"{name}: a venv is made from its lock")
        elif state.how:
            way = "pulls" if state.how == "pull" else "builds"
            yield warn(f"{name} is not here; the first run {way} it{space}", command)
        else:
            what, _, remedy = state.reason.partition(". ")
            level = fail if state.backend not in available and state.backend == "trl" else warn
            yield level(f"{name} is unavailable: {what}", remedy or command)


def stale(found: Findings) -> Iterator[Verdict]:
    old = [one for one in found.listed if one.stale]
    if old:
        yield warn(
            f"{len(old)} outdated {'image is' if len(old) == 1 else 'images are'} here",
            "`aligntune-run images prune`",
        )


def containers(found: Findings) -> Iterator[Verdict]:
    """Running containers are fine; an ended one stays only if its launcher was killed."""
    for one in found.containers:
        if one.state in ALIVE:
            yield good(f"{one.name} is {one.state}: {one.phase} of {one.run_dir}")
        else:
            yield warn(
                f"{one.name} was left behind ({one.state}): {one.phase} of {one.run_dir}",
                f"`docker rm -f {one.name}`, then `aligntune-run --resume {one.run_dir}`",
            )


CHECKS: Checks = {
    "engine": (engine, EngineError),
    "engine-storage": (storage, EngineError),
    "cgroup-driver": (cgroup_driver, EngineError),
    "engine-network": (bridge, EngineError),
    "buildkit": (builder, ImageError),
    "images": (images, ImageError),
    "stale-images": (stale, ImageError),
    "containers": (containers, EngineError),
}
