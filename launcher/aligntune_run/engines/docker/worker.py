"""A container of a run, followed to its end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

from aligntune.errors import EngineError, ImageError
from aligntune_run.engines.base import GRACE_SECONDS, Exit
from aligntune_run.engines.docker.arguments import ENTRY_POINT
from aligntune_run.engines.gpu_leases import Lease

if TYPE_CHECKING:
    from docker import APIClient
    from docker.models.containers import Container

TAIL = 60
"""Lines of a container's output that are kept to explain its end."""


class ContainerWorker:
    """A started container; it is removed after its end was seen."""

    def __init__(self, api: APIClient, container: Container, lease: Lease) -> None:
        self._lease = lease
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
        """How the user finds it."""
        return f"container {self.name}"

    def wait(self, seconds: float) -> Exit | None:
        """How it ended, or None if it still runs after so many seconds.

        Raises:
            EngineError: the engine went away, or somebody removed the container.
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

    def detach(self) -> None:
        """Stop following it; the container still holds its GPUs while it runs."""
        self._lease.end()

    def _signal(self, name: str) -> bool:
        """Send a signal; whether the container still ran."""
        from docker.errors import APIError, NotFound

        try:
            self._container.kill(signal=name)
        except NotFound:
            return False
        except APIError as error:
            if "is not running" not in str(error):
                raise EngineError(
                    f"the engine does not stop {self.name}: {error}",
                    f"Try `docker kill {self.name}`",
                ) from error
            return False
        return True

    def _watch(self) -> None:
        """Wait until the container has ended, however long it takes."""
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
                    f"lost sight of {self.name}, which still runs",
                    f"`docker logs -f {self.name}` shows it, `docker stop {self.name}` ends it",
                )
        except NotFound:
            raise EngineError(
                f"the container {self.name} was removed while the run was active",
                "Run `aligntune-run --resume RUN_DIR` to continue from the last checkpoint",
            ) from None
        except (DockerException, RequestException) as error:
            raise EngineError(
                f"the engine went away while {self.name} ran: {error}",
                "See whether the engine runs: `docker info`",
            ) from error
        output = last_output(self._container)
        remove(self._container)
        if f"exec {ENTRY_POINT} failed" in output:
            raise ImageError(
                f"the image of {self.name} has no {ENTRY_POINT} that can be run",
                "Derive the image from one of aligntune-run's",
            )
        code = state["ExitCode"]
        killed = self._killed and code == 128 + signal.SIGKILL
        return Exit(code, state["OOMKilled"], output, killed)


def last_output(container: Container) -> str:
    """The last of what a container printed; empty if its log is lost, which is no error."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    with contextlib.suppress(DockerException, RequestException):
        return str(container.logs(tail=TAIL).decode(errors="replace"))
    return ""


def remove(container: Container) -> None:
    """Remove a container; one that cannot be removed still carries its run's label."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    with contextlib.suppress(DockerException, RequestException):
        container.remove(force=True, v=True)
