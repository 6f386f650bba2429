"""Docker: a plan as containers of a local engine, Docker's or podman's, through the Docker SDK."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligntune import contract
from aligntune.errors import AligntuneError, EngineError, HardwareError, ImageError, OutputError
from aligntune_run.engines.base import Command, EngineContext, EngineKind, Say, WorkerStatus
from aligntune_run.engines.docker.arguments import (
    container_arguments,
    look,
    private_folder,
    secret_variables,
    token,
)
from aligntune_run.engines.docker.environment import ContainerEnvironment, for_sdk
from aligntune_run.engines.docker.worker import ContainerWorker, last_output, remove
from aligntune_run.engines.gpu_leases import Lease, LocalGpus, gpus_of
from aligntune_run.host.docker_client import engine_errors
from aligntune_run.host.types import Host
from aligntune_run.images.code import lay_out_code
from aligntune_run.images.recipes import Recipe, recipe
from aligntune_run.images.store import derived_state, obtain
from aligntune_run.plan import Plan

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


HANDLE = "docker:"

ENDED = ("exited", "dead")
"""States of a container whose worker has ended."""


def container_name(handle: str) -> str:
    """The container of a handle, ``docker:<name>``.

    Raises:
        EngineError: the handle is not a container's.
    """
    if not handle.startswith(HANDLE):
        raise EngineError(
            f"{handle!r} does not name a container of a run", "See `handle` in the run's run.json"
        )
    return handle.removeprefix(HANDLE)


class DockerEngine:
    """Runs plans as containers.

    Args:
        client: from :func:`~aligntune_run.host.docker_client.connect`.
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
        self._gpus = LocalGpus(host, client)
        self._leases: dict[str, Lease] = {}

    def prepare(self, plan: Plan, say: Say) -> Plan:
        """Obtain the image and lay out the code; returns the plan with the image's digest in it.

        Raises:
            ImageError: the image is unavailable, or breaks the launcher's contract.
            EngineError: the engine stopped answering, or the cache cannot be written.
        """
        choice = plan.choice
        assert choice.image is not None, "a plan for containers has an image"
        code_hash = None
        if plan.spec.image:
            image = derived_state(self._client, plan.spec.image).id
        else:
            made_of = recipe(choice.backend, choice.flavour)
            lay_out_code(made_of, self._host.cache)
            code_hash = made_of.code_hash
            image = obtain(
                self._client,
                made_of,
                plan.spec.pull,
                find_links=self._find_links,
                say=say,
                agree=self._agree,
            )
        obtained = replace(choice.image, id=image, code_hash=code_hash)
        return replace(plan, choice=replace(choice, image=obtained))

    def commands(self, plan: Plan) -> list[Command]:
        """The containers of a run, in order. It follows links in the inputs and changes nothing."""
        around = look(plan, self._host, self._environment)
        return [
            Command(
                phase,
                container_arguments(plan, self._host, phase, around),
                plan.run_id,
                gpus_of(plan, phase),
            )
            for phase in plan.phases
        ]

    def submit(
        self,
        command: Command,
        record: Callable[[str], None],
        tick: Callable[[], None] = lambda: None,
    ) -> str:
        """Create and start a container. It holds the GPUs of its label while it runs.

        A secret that is only in the caller's environment is in a private file while the container
        starts, and no longer: the container's mount outlives the file's name.

        Raises:
            GpusInUseError: another run holds a GPU of the command.
            AligntuneError: the engine refused; the class says what was wrong.
        """
        handle = f"{HANDLE}{command.arguments['name']}"
        make_folders(command.arguments)
        with self._gpus.leasing(command.gpus, tick) as lease:
            self._start(command, handle, record)
            lease.sign(f"{command.run_id} (container {command.arguments['name']})")
        self._leases[handle] = lease
        return handle

    def _start(self, command: Command, handle: str, record: Callable[[str], None]) -> None:
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        container = None
        with self._secrets(command.arguments):
            try:
                container = self._client.containers.create(**for_sdk(command.arguments))
                record(handle)
                container.start()
            except BaseException as error:
                if container is not None:
                    remove(container)
                if isinstance(error, DockerException | RequestException):
                    raise refusal(str(error), command.arguments) from error
                raise

    def attach(self, handle: str) -> ContainerWorker:
        """The worker of a handle, whoever started it.

        Raises:
            EngineError: there is no such container, it never started, or the engine does not
                answer.
        """
        container = self._container(handle)
        if container is None:
            raise EngineError(
                f"there is no container {container_name(handle)}: it was removed",
                "Run `aligntune-run --resume RUN_DIR` to continue from the last checkpoint",
            )
        if container.status == "created":
            raise EngineError(
                f"the container {container.name} was never started",
                f"`docker rm {container.name}` removes it; resume the run",
            )
        return ContainerWorker(self._client.api, container, self._leases.pop(handle, Lease()))

    def status(self, handle: str) -> WorkerStatus:
        """See :class:`~aligntune_run.engines.base.Engine`."""
        container = self._container(handle)
        if container is None or container.status == "created":
            return "gone"
        return "ended" if container.status in ENDED else "running"

    @engine_errors()
    def stop(self, handle: str) -> None:
        """See :class:`~aligntune_run.engines.base.Engine`."""
        if self.status(handle) == "running" and (container := self._container(handle)):
            container.kill(signal="SIGTERM")

    def logs(self, handle: str) -> str:
        """See :class:`~aligntune_run.engines.base.Engine`."""
        container = self._container(handle)
        return last_output(container) if container else ""

    def environment(self, made_of: Recipe, gpus: tuple[str, ...], say: Say) -> ContainerEnvironment:
        """See :class:`~aligntune_run.engines.base.Engine`.

        Raises:
            ImageError: the image is unavailable, or breaks the launcher's contract.
            EngineError: the engine stopped answering, or the cache cannot be written.
        """
        image = obtain(
            self._client, made_of, find_links=self._find_links, say=say, agree=self._agree
        )
        code = lay_out_code(made_of, self._host.cache)
        return ContainerEnvironment(self._client, self._host, gpus, image, code)

    @engine_errors()
    def _container(self, handle: str) -> Container | None:
        from docker.errors import NotFound

        try:
            return self._client.containers.get(container_name(handle))
        except NotFound:
            return None

    @contextmanager
    def _secrets(self, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Files with the caller's secrets, where the arguments mount them, while this lasts."""
        contents = {
            "hf_token": token(self._environment) or "",
            "environment": "".join(
                f"{name}={shlex.quote(value)}\n"
                for name, value in secret_variables(self._host.environment).items()
            ),
        }
        run_id = arguments["labels"][contract.LABEL_RUN_ID]
        folder = private_folder(run_id, self._host, self._environment)
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
    """Create caches and mount points in them as the caller; the engine would do so as root.

    Raises:
        OutputError: a folder cannot be created.
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
                f"cannot create the cache folder {folder}: {error.strerror}",
                "Free some space there, or set ALIGNTUNE_CACHE_DIR or HF_HOME",
            ) from error


def _is_cache(target: str) -> bool:
    return f"{target}/".startswith(f"{contract.CACHE_DIR}/")


def refusal(message: str, arguments: Mapping[str, Any]) -> AligntuneError:
    """The error for an engine's refusal."""
    said = " ".join(message.split())
    for sign, kind, what, remedy in REFUSALS:
        if match := re.search(sign, said, re.I):
            values = {"image": arguments["image"], "name": arguments["name"]}
            detail = match[1] if match.groups() else ""
            return kind(
                what.format(detail=detail, **values), remedy.format(detail=detail, **values)
            )
    return EngineError(
        f"the engine refused the container: {said}", "`aligntune-run doctor` checks the engine"
    )


REFUSALS: tuple[tuple[str, type[AligntuneError], str, str], ...] = (
    (
        r"bind source path does not exist: ([^\"]+?)[\")]*$",
        EngineError,
        "the engine does not see {detail}",
        "It must exist on this machine, on which the engine runs",
    ),
    (
        r"could not select device driver|nvidia-container-cli|unresolvable CDI",
        HardwareError,
        "the engine cannot pass the GPU to a container",
        "Install or repair the NVIDIA Container Toolkit, or use --engine process, or --gpus 0",
    ),
    (
        r"no such image",
        ImageError,
        "the image {image} was removed",
        "Run again to obtain it",
    ),
    (
        r"is already in use by container",
        EngineError,
        "a container {name} already exists: this run is at work, or its container was left behind",
        "`docker logs {name}` shows it, `docker rm -f {name}` removes it",
    ),
    (
        r"no space left on device",
        EngineError,
        "the engine's disk is full",
        "`docker system df` shows what uses it, `docker system prune` frees some",
    ),
    (
        r"connection (aborted|refused)|read timed out|no such file or directory'\)\)",
        EngineError,
        "the engine stopped answering",
        "Check whether it runs: `docker info`",
    ),
)
"""Sign in an engine's message -> class, what happened, what to do."""


def _make(context: EngineContext) -> DockerEngine:
    assert context.client is not None, "the engine was found to be reachable"
    return DockerEngine(
        context.client, context.host, find_links=context.find_links, agree=context.agree
    )


def _problem(host: Host) -> str:
    return "" if host.engine.reachable else f"no container engine: {host.engine.reason}"


KIND = EngineKind(_make, _problem, "a container", in_containers=True)
