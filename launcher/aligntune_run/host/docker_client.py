"""Find a container engine on this machine, or the reason why none is reachable."""

from __future__ import annotations

import errno
import grp
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aligntune.errors import EngineError
from aligntune_run.host.caches import home

if TYPE_CHECKING:
    from docker import DockerClient

PING_SECONDS = 3.0


def connect(environment: Mapping[str, str] = os.environ) -> tuple[DockerClient | None, str]:
    """A client of a local engine, else None and the reason.

    The order is that of docker's command line (``DOCKER_HOST``, the current context, the default
    socket), then the sockets of a rootless engine and of podman. A named engine is never replaced
    by another. An engine on another machine is refused: mounts are paths of this machine.
    """
    named, origin = _named_engine(environment)
    if named and not _is_local(named):
        place = urlsplit(named)
        return None, (
            f"{origin} is an engine on another machine ({place.scheme}://{place.hostname or ''}), "
            "which cannot see this one's files"
        )
    reasons = []
    for address in [named] if named else _usual_sockets(environment):
        try:
            version = _ping(address)
            return _client(address, version, environment), ""
        except OSError as error:
            reasons.append((error.errno in (errno.ENOENT, None), _unreachable(address, error)))
    # A socket that exists and does not answer explains more than one that does not exist.
    return None, min(reasons, key=lambda reason: reason[0])[1]


def _client(address: str, version: str | None, environment: Mapping[str, str]) -> DockerClient:
    import docker
    from docker.errors import DockerException

    try:
        if address.startswith("unix://"):
            return docker.DockerClient(base_url=address, version=version)
        return docker.DockerClient.from_env(environment={**environment, "DOCKER_HOST": address})
    except DockerException as error:
        raise OSError(errno.EPROTO, str(error)) from error


def _named_engine(environment: Mapping[str, str]) -> tuple[str, str]:
    """The address that the user named, and its source; two empty strings if the user named none."""
    if address := environment.get("DOCKER_HOST"):
        return address, "DOCKER_HOST"
    folder = Path(environment.get("DOCKER_CONFIG") or home() / ".docker")
    name = environment.get("DOCKER_CONTEXT") or _json(folder / "config.json").get("currentContext")
    if not name or name == "default":
        return "", ""
    digest = hashlib.sha256(str(name).encode()).hexdigest()
    meta = _json(folder / "contexts" / "meta" / digest / "meta.json")
    address = meta.get("Endpoints", {}).get("docker", {}).get("Host", "")
    return str(address), f"docker's context {name!r}" if address else ""


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file does not exist or holds something else."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_local(address: str) -> bool:
    scheme = urlsplit(address).scheme
    return scheme == "unix" or (scheme == "tcp" and is_loopback(address))


def _usual_sockets(environment: Mapping[str, str]) -> list[str]:
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    places = ("/var/run/docker.sock", f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock")
    system_podman = ("/run/podman/podman.sock",) if os.getuid() == 0 else ()
    return [f"unix://{place}" for place in (*places, *system_podman)]


def _ping(address: str) -> str | None:
    """Check that an engine answers, before its SDK is imported; its API version.

    Raises:
        OSError: nothing answers like an engine.
    """
    if not address.startswith("unix://"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PING_SECONDS)
        connection.connect(address.removeprefix("unix://"))
        connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(4096)):
            answer += part
    status, _, headers = answer.decode("latin-1").partition("\r\n")
    if " 200 " not in f"{status} ":
        raise OSError(errno.EPROTO, f"it answers {status[:60]!r}")
    named = (line.partition(":") for line in headers.splitlines())
    return next((value.strip() for key, _, value in named if key.lower() == "api-version"), None)


def _unreachable(address: str, error: OSError) -> str:
    path = address.removeprefix("unix://")
    if isinstance(error, PermissionError):
        try:
            group = grp.getgrgid(os.stat(path).st_gid).gr_name
        except (OSError, KeyError):
            group = "docker"
        return (
            f"you may not use {path}; join its group (`sudo usermod -aG {group} $USER`) "
            "and log in again"
        )
    if error.errno == errno.ENOENT:
        return f"there is no {path}: no engine is installed, or none runs"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {path}: the engine has stopped"
    return f"the engine at {path} does not answer ({error.strerror or error})"


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turns errors of the SDK, such as an engine that stops answering, into an EngineError.

    Also a decorator. The SDK is imported only after something was raised: without an engine,
    nothing needs it.
    """
    try:
        yield
    except Exception as error:
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        if isinstance(error, DockerException | RequestException):
            said = " ".join(str(error).split())
            raise EngineError(f"the engine failed: {said}", "See `docker info`") from error
        raise


def require_client() -> DockerClient:
    """A client of a local engine.

    Raises:
        EngineError: none is reachable, and why.
    """
    client, reason = connect()
    if client is None:
        raise EngineError(f"no container engine: {reason}", "See README, 'Container engine'")
    return client


def address_parts(value: str) -> tuple[str, bool]:
    """The host of an address, and whether the address holds credentials."""
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        return (parts.hostname or "").lower(), parts.username is not None
    except ValueError:
        return "", True


def is_loopback(address: str) -> bool:
    place = address_parts(address)[0]
    return place in ("localhost", "::1") or place.startswith("127.")
