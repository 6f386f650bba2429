"""Engines: how a plan is carried out. One small protocol, told in plain data.

An engine turns a plan into commands (JSON-ready data, one a phase), and starts them.
What ``--dry-run`` prints is those commands; what runs is those commands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aligntune_run.plan import Phase, Plan

Say = Callable[[str], None]
"""Tells the user one line of progress."""

GRACE_SECONDS = 120
"""How long a worker has to finish its step and write a checkpoint once it is asked to stop."""


@dataclass(frozen=True)
class Command:
    """What is started for one phase of a run: ``arguments`` are the engine's own, exactly."""

    phase: Phase
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Exit:
    """How a worker ended.

    Attributes:
        oom: the engine's word that memory ran out.
        output: the last of what it printed.
        killed: :meth:`Worker.kill` ended it, or :meth:`Worker.wait` once its grace had passed.
    """

    code: int
    oom: bool
    output: str
    killed: bool = False


class Worker(Protocol):
    """A started command."""

    @property
    def title(self) -> str:
        """What the user finds it by: ``container NAME`` or ``pid 4711``."""

    def wait(self, seconds: float) -> Exit | None:
        """How it ended, or None if it still runs after so many seconds."""

    def stop(self) -> None:
        """Ask it to checkpoint and end; it has :data:`GRACE_SECONDS`. Returns at once."""

    def kill(self) -> None:
        """End it now."""


class Engine(Protocol):
    """Carries out plans."""

    def prepare(self, plan: Plan, say: Say) -> Plan:
        """Obtain what the plan needs (an image, a venv); the plan with the image's digest in it."""

    def commands(self, plan: Plan) -> list[Command]:
        """What :meth:`start` will be given, in order. Pure: nothing is looked up or changed."""

    def start(self, command: Command, descriptors: Sequence[int] = ()) -> Worker:
        """Start one command; a process inherits the open files, a container has its label."""
