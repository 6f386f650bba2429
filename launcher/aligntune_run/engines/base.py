"""Engines: how a plan is carried out. One small protocol over plain data.

An engine turns a plan into commands (JSON-ready data, one per phase) and starts them. ``--dry-run``
prints exactly the commands that would run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from aligntune_run.host.types import Host
from aligntune_run.plan import Phase, Plan

if TYPE_CHECKING:
    from docker import DockerClient

    from aligntune_run.images.recipes import Recipe

Say = Callable[[str], None]
"""Shows the user one line of progress."""

GRACE_SECONDS = 120
"""How long a worker that is asked to stop has to finish its step and write a checkpoint."""


@dataclass(frozen=True)
class Command:
    """What is started for one phase of a run.

    Attributes:
        arguments: the engine's own, exactly.
        run_id: the run that it is a phase of.
        gpus: UUIDs of this machine's GPUs that it uses, of which it needs a lease.
    """

    phase: Phase
    arguments: dict[str, Any]
    run_id: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exit:
    """How a worker ended.

    Attributes:
        oom: the engine or the kernel reports that memory ran out.
        output: the last of what it printed.
        killed: :meth:`Worker.kill` ended it, or :meth:`Worker.wait` after its grace.
    """

    code: int
    oom: bool
    output: str
    killed: bool = False


WorkerStatus = Literal["running", "ended", "gone"]
"""``ended`` while the engine can still say how; ``gone`` if it knows nothing of the worker."""


class Worker(Protocol):
    """A worker that this process is attached to."""

    @property
    def title(self) -> str:
        """How the user finds it: ``container NAME`` or ``pid 4711``."""

    def wait(self, seconds: float) -> Exit | None:
        """How it ended, or None if it still runs after so many seconds.

        The first call that returns an exit also removes what the engine keeps of the worker.
        """

    def stop(self) -> None:
        """Ask it to checkpoint and end; it has :data:`GRACE_SECONDS`. Returns at once."""

    def kill(self) -> None:
        """End it now."""

    def detach(self) -> None:
        """Stop following it: ends what this process holds for it, such as a lease of its GPUs."""


class Environment(Protocol):
    """A backend's environment on this machine, in which any program can run."""

    def run(self, words: Sequence[str], folders: Sequence[Path]) -> int:
        """Run a program as the caller, with this process's output; its exit code.

        Args:
            words: the program and its arguments; ``python`` is the backend's.
            folders: mounted writable at their own path, like the current directory.

        Raises:
            HardwareError: another run holds a GPU of the environment.
        """


class Engine(Protocol):
    """Carries out plans.

    A started worker is named by its handle: a string that begins with the engine's name and a
    colon. It is all that another process needs to reach the worker, so it goes into the record.
    """

    def prepare(self, plan: Plan, say: Say) -> Plan:
        """Obtain what the plan needs (an image, a venv); the plan with the image's digest in it."""

    def commands(self, plan: Plan) -> list[Command]:
        """What :meth:`submit` gets, in order. Pure: nothing is looked up or changed."""

    def submit(
        self,
        command: Command,
        record: Callable[[str], None],
        tick: Callable[[], None] = lambda: None,
    ) -> str:
        """Start one command and return its handle. The worker outlives this process.

        An engine that shares this machine's GPUs leases those of the command
        (:mod:`aligntune_run.engines.gpu_leases`).

        Args:
            command: what to start.
            record: is called with the handle before anything starts; if it raises, nothing starts.
            tick: is called repeatedly while it waits for its turn; may raise to give up.

        Raises:
            GpusInUseError: another run holds a GPU of the command.
        """

    def attach(self, handle: str) -> Worker:
        """The worker of a handle, whichever process submitted it."""

    def status(self, handle: str) -> WorkerStatus:
        """Whether a worker is at work."""

    def stop(self, handle: str) -> None:
        """Ask a worker to checkpoint and end. Returns at once, and nobody ends it after a grace."""

    def logs(self, handle: str) -> str:
        """The last of what a worker printed; empty if it is gone."""

    def environment(self, made_of: Recipe, gpus: tuple[str, ...], say: Say) -> Environment:
        """A recipe's environment on this machine, for ``exec``; it is made if it is not here yet.

        Raises:
            EngineError: the engine runs workers only.
        """


@dataclass(frozen=True)
class EngineContext:
    """What an engine is made from.

    Attributes:
        client: of the host's container engine, whose containers may hold GPUs; None if it is not
            reachable or not needed.
        find_links: folders or pages with wheels that no index has.
        agree: is asked before gigabytes are downloaded.
    """

    host: Host
    client: DockerClient | None
    find_links: Sequence[str] = ()
    agree: Callable[[str], bool] = lambda question: True


@dataclass(frozen=True)
class EngineKind:
    """An engine, as choosing and planning see it.

    Attributes:
        make: makes the engine.
        problem: why it cannot run on a host; empty if it can.
        title: what runs are in it, such as ``a process in a venv``.
        in_containers: whether it runs images in the host's container engine.
    """

    make: Callable[[EngineContext], Engine]
    problem: Callable[[Host], str]
    title: str
    in_containers: bool
