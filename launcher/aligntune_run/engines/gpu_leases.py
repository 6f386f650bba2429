"""Which run holds which GPU: one run at a time, for all users and engines of a machine.

A lease belongs to the worker, not to the launcher that started it. A container has a label with
its GPUs and holds them while it runs. A process inherits a lock on one file per GPU; the kernel
releases it when the process and its children have ended. The launcher holds the same locks while
it follows a run, so that engines that do not know each other see the lease too. Looking and
starting is one step: a launch does both while it holds the machine's one lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from aligntune import contract
from aligntune.errors import EngineError, HardwareError
from aligntune_run.host.docker_client import engine_errors
from aligntune_run.host.types import Gpu, Host
from aligntune_run.plan import ONLINE, Phase, Plan

PLACES = ("/run/lock", "/tmp")
"""The first of these in which every user may make files and only their owner remove them."""

HOLDING = ("running", "paused", "restarting", "stopping")
"""States in which a container holds its GPUs. A container that never started holds none."""

TICK_SECONDS = 0.05
LOOK_SECONDS = 2.0
"""A lock that somebody only checks is free again long before."""

WORDS = 200
"""How many bytes of a lock file are read: every user may write to it."""


def mark_leased(host: Host, client: Any | None) -> Host:
    """The host, with the run that holds each GPU now in ``leased``.

    Args:
        host: the machine.
        client: of the engine whose containers are checked; None if there is none.

    Raises:
        EngineError: the engine stopped answering.
    """
    if not host.gpus:
        return host
    holders = _locked(gpu.uuid for gpu in host.gpus) | _of_containers(client)
    return replace(
        host, gpus=tuple(replace(gpu, leased=holders.get(gpu.uuid)) for gpu in host.gpus)
    )


def without_leases(host: Host) -> Host:
    """The host as it will be when no run holds a GPU any more."""
    gone: dict[str, Any] = {"leased": None, "users": ()}
    gpus = (replace(gpu, **gone, free=gpu.memory) if gpu.leased else gpu for gpu in host.gpus)
    return replace(host, gpus=tuple(gpus))


class GpusInUseError(Exception):
    """Other runs hold GPUs that a worker needs.

    Args:
        gpus: these GPUs, with their holders in ``leased``.
    """

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        super().__init__()
        self.gpus = gpus

    @property
    def refusal(self) -> HardwareError:
        """The error if the run cannot have other GPUs."""
        holders = (f"{gpu.name} {gpu.uuid} is in use by {gpu.leased}" for gpu in self.gpus)
        return HardwareError("; ".join(holders), "--wait waits until it is free")


@contextmanager
def choosing(tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While this lasts, nobody else on this machine chooses GPUs and starts a run.

    Args:
        tick: is called repeatedly while somebody else does; may raise to give up.

    Raises:
        EngineError: the machine's lock cannot be used.
    """
    descriptor = _lock(_file("choosing"), tick)
    try:
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Lease:
    """Locks on GPUs, held until its ``with`` block and every process that inherited them end.

    Attributes:
        descriptors: open files, for a worker to inherit.
    """

    descriptors: tuple[int, ...] = ()

    @classmethod
    def take(cls, gpus: Sequence[Gpu]) -> Lease:
        """Lock these GPUs; call it only within :func:`choosing`.

        Raises:
            GpusInUseError: another run holds one of them.
            EngineError: a lock cannot be used.
        """
        taken: list[int] = []
        try:
            for gpu in gpus:
                taken.append(_lock(_file(gpu.uuid), _patience(gpu)))
                os.ftruncate(taken[-1], 0)  # what an earlier holder left
        except BaseException:
            cls(tuple(taken)).end()
            raise
        return cls(tuple(taken))

    def sign(self, holder: str) -> None:
        """Write who holds the lease: the run, and in brackets the container or process."""
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):  # on a full disk the holder has no name
                os.pwrite(descriptor, holder.encode()[:WORDS], 0)

    def end(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@dataclass(frozen=True)
class LocalGpus:
    """The GPUs of this machine, for an engine that shares them with other runs.

    Attributes:
        client: of the container engine whose containers may hold GPUs.
    """

    host: Host
    client: Any | None = None

    @contextmanager
    def leasing(
        self, uuids: Sequence[str], tick: Callable[[], None] = lambda: None
    ) -> Iterator[Lease]:
        """Lease GPUs and start on them in the ``with`` block, as one step.

        The lease outlives the block, unless that raises. Without GPUs, it is empty.

        Args:
            uuids: of the GPUs.
            tick: is called repeatedly while another launch takes its turn; may raise to give up.

        Raises:
            GpusInUseError: another run holds one of them.
            EngineError: a lock cannot be used, or the engine stopped answering.
        """
        if not uuids:
            yield Lease()
            return
        with choosing(tick):
            gpus = [gpu for gpu in self.host.gpus if gpu.uuid in uuids]
            now = mark_leased(replace(self.host, gpus=tuple(gpus)), self.client).gpus
            if taken := [gpu for gpu in now if gpu.leased]:
                raise GpusInUseError(taken)
            lease = Lease.take(gpus)
            try:
                yield lease
            except BaseException:
                lease.end()
                raise

    @contextmanager
    def held(self, uuids: Sequence[str], holder: str) -> Iterator[Lease]:
        """Lease GPUs for a program that runs in the ``with`` block.

        Raises:
            HardwareError: another run holds one of them.
            EngineError: a lock cannot be used, or the engine stopped answering.
        """
        try:
            with self.leasing(uuids) as lease:
                lease.sign(holder)
        except GpusInUseError as error:
            raise error.refusal from None
        with lease:
            yield lease


def gpus_of(plan: Plan, phase: Phase) -> tuple[str, ...]:
    """UUIDs of the GPUs that a phase of a plan uses."""
    return () if phase in ONLINE else plan.choice.gpus


@engine_errors()
def _of_containers(client: Any | None) -> dict[str, str]:
    """UUID -> holder, of our containers that hold GPUs."""
    if client is None:
        return {}
    holders = {}
    for one in client.api.containers(all=True, filters={"label": contract.LABEL_GPUS}):
        if one["State"] in HOLDING:
            labels, name = one["Labels"], one["Names"][0].removeprefix("/")
            run = labels.get(contract.LABEL_RUN_ID, "a program")
            for uuid in labels[contract.LABEL_GPUS].split(","):
                holders[uuid] = f"{run} (container {name})"
    return holders


def _locked(uuids: Iterable[str]) -> dict[str, str]:
    """UUID -> holder, of the GPUs whose lock somebody holds."""
    holders = {}
    for uuid in uuids:
        try:
            descriptor = os.open(_file(uuid), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # it was never leased; if the file is not readable, taking it will say so
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            words = os.pread(descriptor, WORDS, 0).decode(errors="replace")
            printable = "".join(filter(str.isprintable, words))
            holders[uuid] = printable or "another run"
        finally:
            os.close(descriptor)
    return holders


def _patience(gpu: Gpu) -> Callable[[], None]:
    until = time.monotonic() + LOOK_SECONDS

    def tick() -> None:
        if time.monotonic() > until:
            raise GpusInUseError(
                [replace(gpu, leased=_locked([gpu.uuid]).get(gpu.uuid, "another run"))]
            )

    return tick


def _file(name: str) -> Path:
    """The lock file of a GPU, or of :func:`choosing`; the same for every user of the machine."""
    folder = next(filter(_is_for_all, PLACES), PLACES[-1])
    return Path(folder, f"aligntune-gpu-{name.replace('/', '_')}.lock")


def _is_for_all(folder: str) -> bool:
    wanted = stat.S_ISVTX | stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
    return os.path.isdir(folder) and os.stat(folder).st_mode & wanted == wanted


def _lock(path: Path, tick: Callable[[], None]) -> int:
    """Lock a file and return its descriptor; ``tick`` is called while somebody else holds it."""
    while True:
        descriptor = _open(path)
        try:
            while not _flock(descriptor):
                tick()
                time.sleep(TICK_SECONDS)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was removed meanwhile, so others would lock a new one


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    """Open a lock file, which may be another user's, or create it.

    In a folder that everybody may write to, the kernel can refuse to open another's file with
    O_CREAT (fs.protected_regular), so creating and opening are two steps. Links of both
    kinds are refused: writing through one would change another file.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)  # whatever the umask: every user locks it
        except FileExistsError:
            descriptor = os.open(path, flags)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file")
    except OSError as error:
        raise EngineError(
            f"cannot use {path}, the lock file of a GPU: {error.strerror}",
            "Remove it while no run is at work, or fix the folder's permissions",
        ) from error
    return descriptor
