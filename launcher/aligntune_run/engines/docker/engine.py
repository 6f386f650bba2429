"""Docker: a plan as containers of a local engine, Docker's or podman's, through the Docker SDK."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligntune import contract
from aligntune.errors import AligntuneError, EngineError, HardwareError, ImageError, OutputError
from aligntune_run.engines.base import GRACE_SECONDS, Command, Exit, Say
from aligntune_run.engines.docker.arguments import (
    ENTRY_POINT,
    container_arguments,
    look,
    private_folder,
    secret_variables,
    token,
)
from aligntune_run.host.types import Host
from aligntune_run.images.code import lay_out_code
from aligntune_run.images.recipes import recipe
from aligntune_run.images.store import derived_state, obtain
from aligntune_run.plan import Plan

if TYPE_CHECKING:
    from docker import APIClient, DockerClient
    from docker.models.containers import Container

TAIL = 60
"""Lines of a container's output that are kept to explain its end."""


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
        """The containers of a run, in order; looks at the inputs for links, and changes nothing."""
        around = look(plan, self._host, self._environment)
        return [
            Command(phase, container_arguments(plan, self._host, phase, around))
            for phase in plan.phases
        ]

    def start(self, command: Command, descriptors: Sequence[int] = ()) -> ContainerWorker:
        """Create and start a container; it inherits no open files, its label tells its GPUs.

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
                container = self._client.containers.create(**for_sdk(command.arguments))
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


def for_sdk(arguments: Mapping[str, Any]) -> dict[str, Any]:
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
        self._killed = False
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def name(self) -> str:
        return str(self._container.name)

    @property
    def title(self) -> str:
        """What the user finds it by."""
        return f"container {self.name}"

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
        self._killed = self._signal("SIGKILL") or self._killed

    def _signal(self, name: str) -> bool:
        """Send a signal; whether there still was something to send it to."""
        from docker.errors import APIError, NotFound

        try:
            self._container.kill(signal=name)
        except NotFound:
            return False
        except APIError as error:
            if "is not running" not in str(error):
                raise EngineError(f"the engine does not stop {self.name}: {error}") from error
            return False
        return True

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
        except NotFound:
            raise EngineError(f"the container {self.name} was removed from outside") from None
        except (DockerException, RequestException) as error:
            raise EngineError(
                f"the engine went away while {self.name} ran: {error}",
                "See whether the engine runs: `docker info`",
            ) from error
        output = self._output()
        _remove(self._container)
        if f"exec {ENTRY_POINT} failed" in output:
            raise ImageError(
                f"the image of {self.name} has no {ENTRY_POINT} that can be run",
                "Derive the image from one of aligntune-run's",
            )
        code = state["ExitCode"]
        killed = self._killed and code == 128 + signal.SIGKILL
        return Exit(code, state["OOMKilled"], output, killed)

    def _output(self) -> str:
        """The last of what it printed; how it ended is known, so a log that is lost is no error."""
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        with contextlib.suppress(DockerException, RequestException):
            return self._container.logs(tail=TAIL).decode(errors="replace")
        return ""


def _remove(container: Container) -> None:
    """Remove a container; one that cannot be removed still carries its run's label."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    with contextlib.suppress(DockerException, RequestException):
        container.remove(force=True, v=True)
