"""What doctor looks at, in addition to the host. A failure becomes a fact, described in text."""

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
    """A folder that runs write to; ``free`` is in bytes, None if it is unknown."""

    name: str
    path: Path
    writable: bool
    free: int | None


@dataclass(frozen=True)
class Container:
    """One of our containers; ``state`` is the engine's, such as ``running`` or ``exited``."""

    name: str
    state: str
    run_id: str
    run_dir: str
    phase: str


@dataclass(frozen=True)
class Findings:
    """Everything a check can look at.

    Attributes:
        host: as every run probes it.
        facts: every backend's ``facts.json``.
        environment: the caller's environment; checks show names only, never values.
        python: the version of the Python that runs this command.
        no_venv: why no venv can be made for the process engine; empty if one can.
        modules: the loaded kernel modules.
        driver_loaded: whether NVIDIA's kernel module reports its version.
        nodes: NVIDIA's device files.
        displays: the vendors of the machine's display devices.
        available: free memory in bytes.
        swap: swap space in bytes.
        shm: size of ``/dev/shm`` in bytes; None if there is none.
        folders: the folders that runs write to.
        token_mode: the permissions of the file with the hub token.
        endpoint: the hub's address, without a login.
        hub: why the hub does not answer, empty if it does; None if it was not contacted.
        bundle: the configured CA bundle, if it exists.
        no_bundles: variables that name a CA bundle that does not exist.
        no_bridge: the engine's network bridge if it is missing, otherwise empty.
        no_builder: why no image can be built; empty if one can, or if there is no engine.
        index: whether a package index is configured for builds and venvs.
        listed: our images that the engine has, and those that are missing.
        containers: our containers in the engine.
        engine: what the engine reports about itself, without private values.
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
    """Collect the facts about this machine, and change nothing.

    Args:
        environment: the caller's environment.
        network: whether to contact the hub, which takes 2 s at most.

    Raises:
        EngineError: the caller has no home folder for caches.
        ImageError: a recipe cannot be read.
    """
    client, reason = connect(environment)
    engine = probe_engine(client, reason)
    listed: tuple[images.Listed, ...] = ()
    containers: tuple[Container, ...] = ()
    info: dict[str, Any] = {}
    bridge = ""
    try:
        states = images.states(client)
        if client is not None:
            listed = images.list_images(client)
            containers = our_containers(client)
            info = _describe_engine(client)
            bridge = "" if engine.rootless else _lost_bridge(client, info)
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
        engine=info,
    )


@engine_errors()
def our_containers(client: DockerClient) -> tuple[Container, ...]:
    """The containers with our labels, running or not.

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
    """Why the hub does not answer, or an empty string. Any answer counts, and no token is sent."""
    answers: list[str] = []
    # A DNS lookup ignores the timeout, so we limit the wait ourselves.
    request = threading.Thread(target=lambda: answers.append(_request(environment)), daemon=True)
    request.start()
    request.join(HUB_SECONDS)
    return answers[0] if answers else f"no answer within {HUB_SECONDS:g} s"


def _request(environment: Mapping[str, str]) -> str:
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
"""The engine's facts that only describe how it works: no proxies, mirrors or labels."""


def _describe_engine(client: DockerClient) -> dict[str, Any]:
    with engine_errors():
        info = client.info()
    facts = {name: info[name] for name in ENGINE_FACTS if name in info}
    return facts | {"Runtimes": sorted(info.get("Runtimes") or {})}


@engine_errors()
def _lost_bridge(client: DockerClient, info: Mapping[str, Any]) -> str:
    """The bridge through which containers reach the network, if the engine lost it, for example
    because networking restarted. The bridge of an engine in a virtual machine is not visible.
    """
    if not os.path.isdir(info.get("DockerRootDir") or "") or not os.path.isdir(NETWORKS):
        return ""
    for network in client.api.networks(names=["bridge"]):
        name = (network.get("Options") or {}).get("com.docker.network.bridge.name")
        if name and not (NETWORKS / name).exists():
            return str(name)
    return ""


def _reason(attempt: Callable[[], object]) -> str:
    """Why something is unavailable; empty if it is available."""
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
    """The values of ``/proc/meminfo``, in bytes."""
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
