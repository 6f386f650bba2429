"""What doctor looks at, beside the host as every run probes it. A failure is a fact, in words."""

from __future__ import annotations

import contextlib
import os
import platform
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligntune import contract
from aligntune.errors import EngineError, ImageError
from aligntune_run import images
from aligntune_run.engines.local.venv import find_python
from aligntune_run.host.docker_client import connect, engine_errors
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.probe import probe
from aligntune_run.host.types import Host
from aligntune_run.images.indexes import CA_VARIABLES, Wheels, ca_bundle, index_settings
from aligntune_run.models.hub_client import HUB

if TYPE_CHECKING:
    from docker import DockerClient

HUB_SECONDS = 2.0
OFFLINE = ("1", "ON", "YES", "TRUE")
PCI_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
PCI_DISPLAY = "0x03"
NETWORKS = Path("/sys/class/net")


@dataclass(frozen=True)
class Folder:
    """A folder that runs write to; ``free`` is in bytes, None where that cannot be told."""

    name: str
    path: Path
    writable: bool
    free: int | None


@dataclass(frozen=True)
class Container:
    """A container of ours: ``state`` is the engine's word, as ``running`` or ``exited``."""

    name: str
    state: str
    run_id: str
    run_dir: str
    phase: str


@dataclass(frozen=True)
class Findings:
    """Everything that a check may look at.

    Attributes:
        host: as every run probes it.
        facts: every backend's ``facts.json``.
        environment: the caller's; a check shows names of it and no values.
        python: the version of the Python that this command runs on.
        no_venv: why no venv can be made for the process engine; empty where one can.
        modules: the kernel's modules.
        driver_loaded: whether NVIDIA's kernel module tells its version.
        nodes: NVIDIA's device files.
        displays: the vendors of the machine's display devices.
        available: bytes of memory that nothing uses.
        swap: bytes.
        shm: size of ``/dev/shm`` in bytes; None where there is none.
        folders: those that runs write to.
        token_mode: the permissions of the file with the hub token.
        endpoint: the hub's address, without what one logs in with.
        hub: why the hub does not answer, empty where it does; None where it was not asked.
        bundle: the CA bundle that was named, if it is there.
        no_bundles: variables that name a CA bundle which is not there.
        no_bridge: the engine's network bridge where it is gone; empty where it is there.
        no_builder: why no image can be built; empty where one can, or no engine is there.
        index: whether a package index is configured that builds and venvs then use.
        listed: our images that the engine has, and those that it lacks.
        containers: those of ours that the engine has.
        engine: what the engine says of itself, without what may be private.
    """

    host: Host
    facts: Mapping[str, Any]
    environment: Mapping[str, str]
    python: str
    no_venv: str
    modules: frozenset[str]
    driver_loaded: bool
    nodes: tuple[str, ...]
    displays: frozenset[str]
    available: int
    swap: int
    shm: int | None
    folders: tuple[Folder, ...]
    token_mode: int | None
    endpoint: str
    hub: str | None
    bundle: Path | None
    no_bundles: tuple[str, ...]
    no_bridge: str
    no_builder: str
    index: bool
    listed: tuple[images.Listed, ...]
    containers: tuple[Container, ...]
    engine: Mapping[str, Any]


def look(environment: Mapping[str, str] = os.environ, network: bool = True) -> Findings:
    """See what is here; changes nothing.

    Args:
        environment: the caller's.
        network: whether the hub may be asked whether it is there, which takes 2 s at most.

    Raises:
        EngineError: the caller has no home to keep caches in.
        ImageError: a recipe cannot be read.
    """
    client, reason = connect(environment)
    engine = probe_engine(client, reason)
    listed: tuple[images.Listed, ...] = ()
    containers: tuple[Container, ...] = ()
    said: dict[str, Any] = {}
    bridge = ""
    try:
        states = images.states(client)
        if client is not None:
            listed = images.list_images(client)
            containers = our_containers(client)
            said = _says(client)
            bridge = "" if engine.rootless else _lost_bridge(client, said)
    except EngineError as error:
        engine = replace(engine, reachable=False, reason=error.what)
        states = images.states(None)
    host = probe(engine, states)
    memory = _memory()
    online = network and environment.get("HF_HUB_OFFLINE", "").upper() not in OFFLINE
    return Findings(
        host=host,
        facts=images.facts(),
        environment=dict(environment),
        python=platform.python_version(),
        no_venv=_reason(find_python),
        modules=frozenset(line.split()[0] for line in _lines("/proc/modules")),
        driver_loaded=os.path.exists("/proc/driver/nvidia/version"),
        nodes=tuple(sorted(path.name for path in Path("/dev").glob("nvidia*"))),
        displays=_displays(),
        available=memory.get("MemAvailable", 0),
        swap=memory.get("SwapTotal", 0),
        shm=_size(Path("/dev/shm")),
        folders=(
            _folder("our cache", host.cache),
            _folder("hub cache", host.hub_cache),
            _folder("datasets cache", host.datasets_cache),
        ),
        token_mode=host.token.stat().st_mode & 0o777 if host.token else None,
        endpoint=_without_login(environment.get("HF_ENDPOINT") or HUB),
        hub=ask_hub(environment) if online else None,
        bundle=ca_bundle(environment),
        no_bundles=tuple(
            name
            for name in CA_VARIABLES
            if environment.get(name) and not os.path.exists(environment[name])
        ),
        no_bridge=bridge,
        no_builder=_reason(images.find_buildkit_client) if engine.reachable else "",
        index=bool(index_settings(Wheels(), environment)),
        listed=listed,
        containers=containers,
        engine=said,
    )


@engine_errors()
def our_containers(client: DockerClient) -> tuple[Container, ...]:
    """The containers that carry our labels, running or not.

    Raises:
        EngineError: the engine stopped answering.
    """
    found = client.api.containers(all=True, filters={"label": contract.LABEL_RUN_ID})
    return tuple(
        Container(
            name=str(next(iter(one.get("Names") or ()), one["Id"][:12])).lstrip("/"),
            state=str(one.get("State") or "unknown"),
            run_id=str(one["Labels"].get(contract.LABEL_RUN_ID, "")),
            run_dir=str(one["Labels"].get(contract.LABEL_RUN_DIR, "")),
            phase=str(one["Labels"].get(contract.LABEL_PHASE, "")),
        )
        for one in found
    )


def ask_hub(environment: Mapping[str, str]) -> str | None:
    """Why the hub does not answer, or an empty string: any answer will do, and no token is sent."""
    told: list[str] = []
    # A name that is being looked up heeds no timeout, so the wait for it is our own.
    asking = threading.Thread(target=lambda: told.append(_asked(environment)), daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    return told[0] if told else f"no answer within {HUB_SECONDS:g} s"


def _asked(environment: Mapping[str, str]) -> str:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        bundle = ca_bundle(environment)
        trust = ssl.create_default_context(cafile=str(bundle) if bundle else None)
        request = Request(environment.get("HF_ENDPOINT") or HUB, method="HEAD")
        with urlopen(request, timeout=HUB_SECONDS, context=trust):
            return ""
    except HTTPError as error:
        return "" if error.code < 500 else f"it answers {error.code}"
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        return " ".join(str(reason).split())[:200]


ENGINE_FACTS = (
    *("ServerVersion", "OperatingSystem", "OSType", "Architecture", "KernelVersion", "NCPU"),
    *("MemTotal", "Driver", "CgroupDriver", "CgroupVersion", "DefaultRuntime", "SecurityOptions"),
    *("DockerRootDir", "CDISpecDirs", "DiscoveredDevices", "Containers", "ContainersRunning"),
    *("Images", "LiveRestoreEnabled", "Warnings"),
)
"""What of an engine's own facts tells no more than how it works: no proxies, mirrors or labels."""


def _says(client: DockerClient) -> dict[str, Any]:
    with engine_errors():
        info = client.info()
    told = {name: info[name] for name in ENGINE_FACTS if name in info}
    return told | {"Runtimes": sorted(info.get("Runtimes") or {})}


@engine_errors()
def _lost_bridge(client: DockerClient, said: Mapping[str, Any]) -> str:
    """The bridge that containers reach the network by, if the engine lost it, as by a restart of
    the machine's networking. One in a virtual machine of its own cannot be seen from here.
    """
    if not os.path.isdir(said.get("DockerRootDir") or "") or not os.path.isdir(NETWORKS):
        return ""
    for network in client.api.networks(names=["bridge"]):
        name = (network.get("Options") or {}).get("com.docker.network.bridge.name")
        if name and not (NETWORKS / name).exists():
            return str(name)
    return ""


def _reason(attempt: Callable[[], object]) -> str:
    """Why something cannot be had; empty where it can."""
    try:
        attempt()
    except (EngineError, ImageError) as error:
        return str(error)
    return ""


def _folder(name: str, path: Path) -> Folder:
    above = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    writable = os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK)
    try:
        disk = os.statvfs(above)
    except OSError:
        return Folder(name, path, writable, None)
    return Folder(name, path, writable, disk.f_bavail * disk.f_frsize)


def _size(path: Path) -> int | None:
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    return disk.f_blocks * disk.f_frsize


def _memory() -> dict[str, int]:
    """What ``/proc/meminfo`` tells, in bytes."""
    words = (line.split() for line in _lines("/proc/meminfo"))
    return {
        one[0].rstrip(":"): int(one[1]) << 10
        for one in words
        if len(one) > 1 and one[1].isdecimal()
    }


def _displays() -> frozenset[str]:
    found = set()
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            if (device / "class").read_text().startswith(PCI_DISPLAY):
                vendor = (device / "vendor").read_text().strip()
                found.add(PCI_VENDORS.get(vendor, vendor))
    return frozenset(found)


def _lines(path: str) -> list[str]:
    try:
        return [line for line in Path(path).read_text().splitlines() if line.strip()]
    except OSError:
        return []


def _without_login(address: str) -> str:
    scheme, mark, place = address.partition("://")
    return f"{scheme}{mark}{place.rpartition('@')[2]}" if mark else address.rpartition("@")[2]
