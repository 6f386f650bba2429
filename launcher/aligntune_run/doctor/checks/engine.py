"""Checks of the container engine, of our images in it, and of what was left behind there."""

from __future__ import annotations

from collections.abc import Iterator

from aligntune.errors import EngineError, ImageError
from aligntune_run.doctor.checks.base import Checks, fail, gigabytes, good, warn
from aligntune_run.doctor.probe import Findings
from aligntune_run.images import recipe
from aligntune_run.plan import Verdict

ALIVE = ("running", "paused", "restarting")


def engine(found: Findings) -> Iterator[Verdict]:
    told = found.host.engine
    if told.reachable:
        how = ", rootless" if told.rootless else ""
        yield good(f"{told.kind} {told.version} at {told.address}{how}")
    elif not found.no_venv:
        yield warn(
            f"{told.reason}; runs are processes in a venv instead",
            "Start one to run in images: `sudo systemctl start docker`, and see README",
        )
    else:
        yield fail(
            f"{told.reason}; {found.no_venv.rstrip('.')}",
            "Start one: `sudo systemctl start docker`, and see README, 'Container engine'",
        )


def storage(found: Findings) -> Iterator[Verdict]:
    told = found.host.engine
    if not told.reachable or told.storage_free is None:
        return
    wanted = [one.size or 0 for one in found.listed if one.state == "missing"]
    has = f"{told.root} has {gigabytes(told.storage_free)} free"
    if not wanted:
        yield good(f"{has}, and every image is here")
    elif told.storage_free < max(wanted):
        yield fail(
            f"{has}; an image that is not here takes up to {gigabytes(max(wanted))}",
            "Free some: `aligntune-run images prune`, `docker system prune`",
        )
    elif told.storage_free < sum(wanted):
        yield warn(
            f"{has}; the images that are not here take up to {gigabytes(sum(wanted))} together",
            "Free some: `aligntune-run images prune`, `docker system prune`",
        )
    else:
        yield good(f"{has}; images take up to {gigabytes(sum(wanted))} more")


def cgroup_driver(found: Findings) -> Iterator[Verdict]:
    told = found.host.engine
    if not told.reachable or not told.cgroup_driver:
        return
    if told.cgroup_driver == "systemd" and told.gpu_way == "nvidia":
        yield warn(
            "systemd, with NVIDIA's runtime hook: `systemctl daemon-reload` takes the GPUs away "
            "from containers that run",
            'Use CDI, or set "exec-opts": ["native.cgroupdriver=cgroupfs"] in '
            "/etc/docker/daemon.json and `sudo systemctl restart docker`",
        )
    else:
        yield good(told.cgroup_driver)


def bridge(found: Findings) -> Iterator[Verdict]:
    if found.no_bridge:
        yield fail(
            f"the engine's network bridge {found.no_bridge} is gone: containers that fetch or "
            "build do not start",
            "`sudo systemctl restart docker`",
        )


def builder(found: Findings) -> Iterator[Verdict]:
    if not found.host.engine.reachable:
        return
    if not found.no_builder:
        yield good("a docker client with BuildKit is here")
        return
    what, _, remedy = found.no_builder.partition(". ")
    missing = any(state.how is None for state in found.host.images)
    yield (fail if missing else warn)(what, remedy or "Install docker-buildx")


def images(found: Findings) -> Iterator[Verdict]:
    """One word for each image; where TRL can be had in no flavour, nothing can be trained."""
    states = found.host.images
    able = {state.backend for state in states if state.how}
    for state in states:
        name = f"{state.backend} {state.flavour}"
        size = recipe(state.backend, state.flavour).expected_size
        takes = f", {gigabytes(size)} on disk" if size else ""
        command = f"`aligntune-run images build {state.backend} --flavour {state.flavour}`"
        if state.how == "present":
            yield good(f"{name} is here: {state.ref}")
        elif state.how and not found.host.engine.reachable:
            yield good(f"{name}: a venv is made of its lock")
        elif state.how:
            way = "pulled" if state.how == "pull" else "built"
            yield warn(f"{name} is not here; it is {way} by the first run{takes}", command)
        else:
            what, _, remedy = state.reason.partition(". ")
            level = fail if state.backend not in able and state.backend == "trl" else warn
            yield level(f"{name} cannot be had: {what}", remedy or command)


def stale(found: Findings) -> Iterator[Verdict]:
    old = [one for one in found.listed if one.stale]
    if old:
        yield warn(
            f"{len(old)} images of earlier versions are here",
            "`aligntune-run images prune`",
        )


def containers(found: Findings) -> Iterator[Verdict]:
    """Those that are at work are no fault; those that ended stay only where we were killed."""
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
