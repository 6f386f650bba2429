"""Docker: a plan as containers of a local engine, Docker's or podman's, through the Docker SDK.

:func:`container_arguments` says everything that a container is given, as plain data, from a plan, a
host and what :func:`look` found; the rest of this file connects, starts, watches and cleans up.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import json
import os
import posixpath
import re
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aligntune import contract
from aligntune.errors import (
    AligntuneError,
    EngineError,
    HardwareError,
    ImageError,
    OutputError,
)
from aligntune.spec import RunSpec, is_local
from aligntune_run.engines import GRACE_SECONDS, Command, Exit, Phase, Say
from aligntune_run.host import Host
from aligntune_run.images.packages import ca_bundle
from aligntune_run.images.recipes import recipe
from aligntune_run.images.store import derived_state, obtain
from aligntune_run.plan import Plan

if TYPE_CHECKING:
    from docker import APIClient, DockerClient
    from docker.models.containers import Container

ENTRY_POINT = "aligntune-train"
TAIL = 60
"""Lines of a container's output that are kept to explain its end."""

PIDS = 16384
"""Enough for a thread a core in every process of a large machine; a fork bomb ends here."""

PING_SECONDS = 3.0

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Set while training: everything has been fetched, so a missing file is an error at once."""

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

SECRET_VARIABLES = f"{contract.SECRETS_DIR}/environment"
CA_BUNDLE = f"{contract.SECRETS_DIR}/ca.pem"
BLOBS = "blobs"
"""The folder of a Hugging Face cache that holds files, to which its snapshots' links lead."""

SCAN_DEPTH = 4
SCAN_ENTRIES = 20_000
"""How far an input folder is searched for links; models are flat, and data nests a little."""

SYSTEM_PATHS = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run"),
    *("/sbin", "/sys", "/usr", "/var/run", "/opt/aligntune"),
    *(contract.CACHE_DIR, contract.RUN_DIR, contract.INPUT_ROOT),
)
"""What a container has its own of; an absolute link that leads there cannot be honoured."""


@dataclass(frozen=True)
class Bind:
    """A file or folder of the host, and where a container sees it."""

    source: str
    target: str
    read_only: bool = True

    def to_dict(self) -> dict[str, Any]:
        kind = {"type": "bind", "source": self.source, "target": self.target}
        return {**kind, "read_only": self.read_only}


@dataclass(frozen=True)
class Surroundings:
    """What only the file system and the caller's environment tell, as data and without secrets.

    Attributes:
        inputs: the run's local inputs, with what links in them lead to.
        groups: the caller's further groups, which may be what makes shared data readable.
        ca_bundle: the CA bundle that the caller's programs use, as behind a company proxy.
        token: a file with the hub token; there may yet be none, see :meth:`DockerEngine.start`.
        secret_variables: a file with variables that hold a password, likewise.
    """

    inputs: tuple[Bind, ...] = ()
    groups: tuple[int, ...] = ()
    ca_bundle: str | None = None
    token: str | None = None
    secret_variables: str | None = None


def container_arguments(
    plan: Plan, host: Host, phase: Phase, around: Surroundings
) -> dict[str, Any]:
    """Everything that the container of one phase is given. Pure; JSON-ready; holds no secret.

    The keys are those of the Docker SDK's ``containers.create``, mounts being of plain data.
    Fetching has the network and the token and sees none of the user's files; training sees those
    and has neither network nor token.
    """
    image = plan.choice.image
    assert image is not None, "a plan for containers has an image"
    command = [ENTRY_POINT, "--spec", f"{contract.RUN_DIR}/spec.yaml"]
    mounts = [Bind(plan.run_dir, contract.RUN_DIR, read_only=False), *_caches(plan, host, phase)]
    environment = {"HOME": "/tmp", "USER": "aligntune", "LOGNAME": "aligntune"}
    network, gpus = "none", plan.choice.gpus if phase == "train" else ()
    if phase == "fetch":
        command.append("--fetch")
        variables, binds = _hub_access(host, around)
        environment |= variables
        mounts += binds
        network = "host" if _needs_loopback(host.environment) else "bridge"
        if around.secret_variables:
            load = f'set -a; . {SECRET_VARIABLES}; set +a; exec "$@"'
            command = ["/bin/sh", "-c", load, "sh", *command]
    else:
        mounts += around.inputs
        environment |= OFFLINE
        environment |= (
            {"UNSLOTH_DISABLE_CPU_FALLBACK": "1"} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
        )
    return {
        "image": image.id or image.ref,
        "name": f"aligntune-{plan.run_id}-{phase}",
        "entrypoint": command[:1],
        "command": command[1:],
        "working_dir": "/tmp",
        "environment": environment,
        "user": "0:0" if host.engine.rootless else f"{host.uid}:{host.gid}",
        "group_add": [] if host.engine.rootless else [str(group) for group in around.groups],
        "read_only": True,
        "tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={plan.memory // 2}"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "init": True,
        "pids_limit": PIDS,
        "shm_size": plan.memory // 2,
        "mem_limit": plan.memory,
        "memswap_limit": plan.memory,
        "network_mode": network,
        "mounts": [bind.to_dict() for bind in mounts],
        "device_requests": (
            [{"device_ids": list(gpus), "capabilities": [["gpu", "compute", "utility"]]}]
            if gpus
            else []
        ),
        "labels": {
            contract.LABEL_RUN_ID: plan.run_id,
            contract.LABEL_RUN_DIR: plan.run_dir,
            contract.LABEL_PHASE: phase,
        },
    }


def _caches(plan: Plan, host: Host, phase: Phase) -> list[Bind]:
    """The caller's caches: of the hub only what is used, and never the folder with the token."""
    binds = [Bind(str(host.cache / "worker"), contract.CACHE_DIR, read_only=False)]
    if plan.fetch:
        binds.append(Bind(str(host.hub_cache), contract.HUB_CACHE, read_only=phase == "train"))
    if any(wanted.startswith("dataset ") for wanted in plan.fetch):
        binds.append(Bind(str(host.datasets_cache), contract.DATASETS_CACHE, read_only=False))
    return binds


def _hub_access(host: Host, around: Surroundings) -> tuple[dict[str, str], list[Bind]]:
    """Variables and mounts with which a container reaches the hub as the caller would."""
    hidden = _secret_variables(host.environment)
    variables = {name: value for name, value in host.environment.items() if name not in hidden}
    binds = []
    if around.token:
        binds.append(Bind(around.token, contract.TOKEN_PATH))
        variables["HF_TOKEN_PATH"] = contract.TOKEN_PATH
    if around.secret_variables:
        binds.append(Bind(around.secret_variables, SECRET_VARIABLES))
    if around.ca_bundle:
        binds.append(Bind(around.ca_bundle, CA_BUNDLE))
        variables |= {"SSL_CERT_FILE": CA_BUNDLE, "REQUESTS_CA_BUNDLE": CA_BUNDLE}
    return variables, binds


def _address(value: str) -> tuple[str, bool]:
    """The host of an address, and whether the address holds a password or a name to log in with."""
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        return (parts.hostname or "").lower(), parts.username is not None
    except ValueError:
        return "", True


def _secret_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the hub's variables that hold a password, as a proxy's address may."""
    return {name: value for name, value in environment.items() if _address(value)[1]}


def _needs_loopback(environment: Mapping[str, str]) -> bool:
    """Whether the hub or a proxy is only there on this machine's own loopback address."""
    return any(
        _is_loopback(value)
        for name, value in environment.items()
        if name == "HF_ENDPOINT" or name.lower() in ("http_proxy", "https_proxy")
    )


def _is_loopback(address: str) -> bool:
    place = _address(address)[0]
    return place in ("localhost", "::1") or place.startswith("127.")


def look(plan: Plan, host: Host, environment: Mapping[str, str] = os.environ) -> Surroundings:
    """See what a plan's containers need of the file system and the environment. Changes nothing."""
    private = _private_folder(plan.run_id, host, environment)
    bundle = ca_bundle(environment)
    token = str(host.token.resolve()) if host.token else None
    if _token(environment):
        token = str(private / "hf_token")
    return Surroundings(
        inputs=input_mounts(_local_inputs(plan.spec)),
        groups=tuple(sorted(set(os.getgroups()) - {host.gid, 0})),
        ca_bundle=str(bundle.resolve()) if bundle else None,
        token=token,
        secret_variables=(
            str(private / "environment") if _secret_variables(host.environment) else None
        ),
    )


def _token(environment: Mapping[str, str]) -> str | None:
    """The token in the caller's environment, which the hub's own library prefers to the file."""
    return next(filter(None, (environment.get(name, "").strip() for name in TOKEN_VARIABLES)), None)


def _private_folder(run_id: str, host: Host, environment: Mapping[str, str]) -> Path:
    """Where secrets lie for the moment in which a container starts; in memory where that is."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    above = Path(runtime) if runtime and Path(runtime).is_dir() else host.cache / "private"
    return above / f"aligntune-{run_id}"


def _local_inputs(spec: RunSpec) -> list[str]:
    named = (
        spec.model.name,
        spec.model.chat_template,
        spec.adapter.path,
        spec.dataset.name,
        spec.dataset.eval_name,
    )
    return list(dict.fromkeys(name for name in named if name and is_local(name)))


def input_mounts(paths: Iterable[str]) -> tuple[Bind, ...]:
    """Read-only mounts with which each path P is whole at ``/in`` + P, links in it included.

    A link that leads out of its folder, as all do in a snapshot of a Hugging Face cache, is
    followed: what it leads to is mounted where the link, unchanged, will look for it. Of another
    folder only the file is mounted, for what lies beside it is nobody's business.

    Raises:
        EngineError: a link leads to a path of which a container has its own.
    """
    mounts = {contract.INPUT_ROOT + path: Path(path).resolve() for path in paths}
    for target in tuple(mounts):
        _follow_links(mounts, target)
    kept: list[Bind] = []
    for target, source in sorted(mounts.items()):
        shown = (bind for bind in kept if target.startswith(bind.target + "/"))
        if not any(source == Path(bind.source + target[len(bind.target) :]) for bind in shown):
            kept.append(Bind(str(source), target))
    return tuple(kept)


def _follow_links(mounts: dict[str, Path], target: str) -> None:
    folder = mounts[target]
    for link in _links(folder):
        _follow(mounts, link, posixpath.join(target, link.relative_to(folder).as_posix()))


def _follow(mounts: dict[str, Path], link: Path, seen_as: str) -> None:
    """Mount what a link leads to, unless a container sees it anyway or it leads nowhere.

    Args:
        mounts: target -> source; both are free of links on the way.
        link: the link on the host.
        seen_as: the link in the container.
    """
    text = os.readlink(link)
    found = link.parent / text
    target = posixpath.normpath(posixpath.join(posixpath.dirname(seen_as), text))
    if not found.exists() or link.is_relative_to(found.resolve()):
        return
    if any(_sees(known, source, target) for known, source in mounts.items()):
        return
    relative = not text.startswith("/") and target.startswith(contract.INPUT_ROOT + "/")
    if not relative and _is_system(target):
        raise EngineError(
            f"{link} is a link to {text}, and a container has a {target} of its own",
            "Put a copy there instead of the link",
        )
    if found.parent.name != BLOBS:
        mounts[target] = found.resolve()
        _follow_links(mounts, target)
        return
    mounts[posixpath.dirname(target)] = folder = found.parent.resolve()
    if (folder / found.name).is_symlink():
        _follow(mounts, folder / found.name, target)


def _sees(mounted: str, source: Path, target: str) -> bool:
    """Whether a mount of ``source`` has something at ``target``; a link there is followed apart."""
    if target == mounted:
        return True
    return target.startswith(f"{mounted}/") and os.path.lexists(f"{source}{target[len(mounted) :]}")


def _is_system(target: str) -> bool:
    return target == "/" or any(f"{target}/".startswith(f"{path}/") for path in SYSTEM_PATHS)


def _links(folder: Path) -> Iterator[Path]:
    """The links in a folder, in order, to :data:`SCAN_DEPTH` and after at most so many entries."""
    left = SCAN_ENTRIES
    level = [folder] if folder.is_dir() else []
    for _ in range(SCAN_DEPTH):
        below: list[Path] = []
        for place in level:
            try:
                with os.scandir(place) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                continue  # the worker, which has the caller's rights too, says what it cannot read
            for entry in found[:left]:
                if entry.is_symlink():
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
            left -= len(found[:left])
        level = below


def connect(environment: Mapping[str, str] = os.environ) -> tuple[DockerClient | None, str]:
    """A client of a local engine, else None and the reason in words.

    Looked for where docker's own command line looks (``DOCKER_HOST``, the current context, the
    default socket), then at the sockets of a rootless engine and of podman. What is named
    explicitly is not replaced by something else. An engine on another machine is refused, since
    mounts are paths of this one.
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
    # A socket that is there and does not answer tells more than one that is not there.
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
    """The engine that the user named, and by what; two empty strings where none is named."""
    if address := environment.get("DOCKER_HOST"):
        return address, "DOCKER_HOST"
    folder = Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = environment.get("DOCKER_CONTEXT") or _json(folder / "config.json").get("currentContext")
    if not name or name == "default":
        return "", ""
    digest = hashlib.sha256(str(name).encode()).hexdigest()
    meta = _json(folder / "contexts" / "meta" / digest / "meta.json")
    address = meta.get("Endpoints", {}).get("docker", {}).get("Host", "")
    return str(address), f"docker's context {name!r}" if address else ""


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is not there or holds something else."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_local(address: str) -> bool:
    scheme = urlsplit(address).scheme
    return scheme == "unix" or (scheme == "tcp" and _is_loopback(address))


def _usual_sockets(environment: Mapping[str, str]) -> list[str]:
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    places = ("/var/run/docker.sock", f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock")
    system_podman = ("/run/podman/podman.sock",) if os.getuid() == 0 else ()
    return [f"unix://{place}" for place in (*places, *system_podman)]


def _ping(address: str) -> str | None:
    """Ask an engine whether it is there, before its SDK is imported; the API version it speaks.

    Raises:
        OSError: it is not there, or does not answer like an engine.
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


class DockerEngine:
    """Runs plans as containers.

    Args:
        client: from :func:`connect`.
        host: the machine, as probed.
        environment: the caller's; a hub token is taken from it.
        find_links: folders or addresses with wheels that no index has, for a build.
        agree: asked before an image of gigabytes is obtained.
    """

    def __init__(
        self,
        client: DockerClient,
        host: Host,
        environment: Mapping[str, str] = os.environ,
        find_links: Sequence[str] = (),
        agree: Callable[[str], bool] = lambda question: True,
    ) -> None:
        self._client = client
        self._host = host
        self._environment = environment
        self._find_links = find_links
        self._agree = agree

    def prepare(self, plan: Plan, say: Say) -> Plan:
        """Obtain the image; the plan with the image's digest in it.

        Raises:
            ImageError: the image cannot be had, or breaks the launcher's contract.
            EngineError: the engine stopped answering.
        """
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        choice = plan.choice
        assert choice.image is not None, "a plan for containers has an image"
        try:
            if plan.spec.image:
                image = derived_state(self._client, plan.spec.image).id
            else:
                image = obtain(
                    self._client,
                    recipe(choice.backend, choice.flavour),
                    plan.spec.pull,
                    find_links=self._find_links,
                    say=say,
                    agree=self._agree,
                )
        except (DockerException, RequestException) as error:
            raise EngineError(f"the engine failed: {error}", "See `docker info`") from error
        return replace(plan, choice=replace(choice, image=replace(choice.image, id=image)))

    def commands(self, plan: Plan) -> list[Command]:
        """The containers of a run, in order; looks at the inputs for links, and changes nothing."""
        around = look(plan, self._host, self._environment)
        phases: tuple[Phase, ...] = ("fetch", "train") if plan.fetch else ("train",)
        return [
            Command(phase, container_arguments(plan, self._host, phase, around)) for phase in phases
        ]

    def start(self, command: Command) -> ContainerWorker:
        """Create and start a container.

        A secret that is only in the caller's environment lies in a private file while the container
        starts, and no longer: the container's mount outlives the file's name.

        Raises:
            AligntuneError: the engine refused; the class says whose fault it is.
        """
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        container = None
        make_folders(command.arguments)
        with self._secrets(command.arguments):
            try:
                container = self._client.containers.create(**_for_sdk(command.arguments))
                container.start()
            except BaseException as error:
                if container is not None:
                    _remove(container)
                if isinstance(error, DockerException | RequestException):
                    raise refusal(str(error), command.arguments) from error
                raise
        return ContainerWorker(self._client.api, container)

    @contextmanager
    def _secrets(self, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Files with the caller's secrets, where the arguments mount them, for as long as this."""
        contents = {
            "hf_token": _token(self._environment) or "",
            "environment": "".join(
                f"{name}={shlex.quote(value)}\n"
                for name, value in _secret_variables(self._host.environment).items()
            ),
        }
        run_id = arguments["labels"][contract.LABEL_RUN_ID]
        folder = _private_folder(run_id, self._host, self._environment)
        wanted = {Path(mount["source"]) for mount in arguments["mounts"]}
        try:
            for path in wanted & {folder / name for name in contents}:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(descriptor, "w", encoding="utf-8") as file:
                    file.write(contents[path.name])
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_folders(arguments: Mapping[str, Any]) -> None:
    """Make, as the caller, what the engine would make as root: caches, and mount points in them.

    Raises:
        OutputError: a folder cannot be made.
    """
    mounts = {mount["target"]: Path(mount["source"]) for mount in arguments["mounts"]}
    cache = mounts[contract.CACHE_DIR]
    folders = [path for target, path in mounts.items() if _is_cache(target)]
    folders += [
        cache / target.removeprefix(f"{contract.CACHE_DIR}/")
        for target in mounts
        if target.startswith(f"{contract.CACHE_DIR}/")
    ]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the cache folder {folder}: {error.strerror}",
                "Make room there, or name another place with ALIGNTUNE_CACHE_DIR or HF_HOME",
            ) from error


def _is_cache(target: str) -> bool:
    return f"{target}/".startswith(f"{contract.CACHE_DIR}/")


def _for_sdk(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with mounts as the API has them; unlike bind strings they make no folder."""
    mounts = [
        {
            "Type": mount["type"],
            "Source": mount["source"],
            "Target": mount["target"],
            "ReadOnly": mount["read_only"],
        }
        for mount in arguments["mounts"]
    ]
    return {**arguments, "mounts": mounts}


def refusal(message: str, arguments: Mapping[str, Any]) -> AligntuneError:
    """What an engine's refusal means to the user."""
    said = " ".join(message.split())
    for sign, kind, what, remedy in REFUSALS:
        if match := re.search(sign, said, re.I):
            values = {"image": arguments["image"], "name": arguments["name"]}
            detail = match[1] if match.groups() else ""
            return kind(
                what.format(detail=detail, **values), remedy.format(detail=detail, **values)
            )
    return EngineError(f"the engine refused the container: {said}")


REFUSALS: tuple[tuple[str, type[AligntuneError], str, str], ...] = (
    (
        r"bind source path does not exist: ([^\"]+?)[\")]*$",
        EngineError,
        "the engine sees no {detail}",
        "It must be on this machine, where the engine runs, and still be there",
    ),
    (
        r"could not select device driver|nvidia-container-cli|unresolvable CDI",
        HardwareError,
        "the engine cannot pass the GPU to a container",
        "Install or mend the NVIDIA Container Toolkit, or use --engine process, or --gpus 0",
    ),
    (
        r"no such image",
        ImageError,
        "the image {image} is gone",
        "Run again: it will be obtained anew",
    ),
    (
        r"is already in use by container",
        EngineError,
        "there already is a container {name}: this run goes on, or was left behind",
        "`docker logs {name}` shows it, `docker rm -f {name}` removes it",
    ),
    (
        r"no space left on device",
        EngineError,
        "the engine's disk is full",
        "Free some: `docker system df` shows what takes it, `docker system prune` frees it",
    ),
    (
        r"connection (aborted|refused)|read timed out|no such file or directory'\)\)",
        EngineError,
        "the engine stopped answering",
        "See whether it still runs: `docker info`",
    ),
)
"""Sign in an engine's message -> class, what happened, what to do."""


class ContainerWorker:
    """A started container; it is removed once its end has been seen."""

    def __init__(self, api: APIClient, container: Container) -> None:
        self._api = api
        self._container = container
        self._id = str(container.id)
        self._exit: Exit | None = None
        self._kill_at = float("inf")
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def name(self) -> str:
        return str(self._container.name)

    def wait(self, seconds: float) -> Exit | None:
        """How it ended, or None if it still runs after so many seconds.

        Raises:
            EngineError: the engine went away, or the container was removed behind our back.
        """
        if self._exit is None:
            left = self._kill_at - time.monotonic()
            if not self._ended.wait(max(min(seconds, left), 0)):
                if time.monotonic() >= self._kill_at:
                    self.kill()
                return None
            self._exit = self._finish()
        return self._exit

    def stop(self) -> None:
        """Ask it to checkpoint and end; :meth:`wait` ends it after :data:`GRACE_SECONDS`."""
        self._kill_at = min(self._kill_at, time.monotonic() + GRACE_SECONDS)
        self._signal("SIGTERM")

    def kill(self) -> None:
        """End it now."""
        self._kill_at = float("inf")
        self._signal("SIGKILL")

    def _signal(self, name: str) -> None:
        from docker.errors import APIError, NotFound

        try:
            self._container.kill(signal=name)
        except NotFound:
            return
        except APIError as error:
            if "is not running" not in str(error):
                raise EngineError(f"the engine does not stop {self.name}: {error}") from error

    def _watch(self) -> None:
        """Sleep until the container has ended, however long it takes."""
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        with contextlib.suppress(DockerException, RequestException):
            self._api.wait(self._id, timeout=None)
        self._ended.set()

    def _finish(self) -> Exit:
        from docker.errors import DockerException, NotFound
        from requests.exceptions import RequestException

        try:
            state = self._api.inspect_container(self._id)["State"]
            if state["Running"]:
                raise EngineError(
                    f"lost sight of {self.name}, which goes on",
                    f"`docker logs -f {self.name}` shows it, `docker stop {self.name}` ends it",
                )
            output = self._container.logs(tail=TAIL).decode(errors="replace")
        except NotFound:
            raise EngineError(f"the container {self.name} was removed from outside") from None
        except (DockerException, RequestException) as error:
            raise EngineError(
                f"the engine went away while {self.name} ran: {error}",
                "See whether the engine runs: `docker info`",
            ) from error
        _remove(self._container)
        if f"exec {ENTRY_POINT} failed" in output:
            raise ImageError(
                f"the image of {self.name} has no {ENTRY_POINT} that can be run",
                "Derive the image from one of aligntune-run's",
            )
        return Exit(state["ExitCode"], state["OOMKilled"], output)


def _remove(container: Container) -> None:
    """Remove a container; one that cannot be removed still carries its run's label."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    with contextlib.suppress(DockerException, RequestException):
        container.remove(force=True, v=True)
