"""Who has which GPU: one run at a time, whoever starts it and with whatever engine.

A lease belongs to what computes, not to the launcher that started it. A container of ours carries a
label with its GPUs and has them while it runs. A process holds a lock on a file of each GPU, which
it inherits: the kernel lets go of it when the process and its children are gone. The launcher holds
the same locks for as long as it follows a run, so engines that do not know of each other see that
too. Looking and starting is one step: a launch does both while it has the machine's one lock.
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
from types import TracebackType
from typing import Any, Self

from aligntune import contract
from aligntune.errors import EngineError, HardwareError
from aligntune_run.host.docker_client import engine_errors
from aligntune_run.host.types import Gpu, Host

PLACES = ("/run/lock", "/tmp")
"""Where every user may make files, and only their owner removes them; the first that is so."""

HOLDING = ("running", "paused", "restarting", "stopping")
"""States in which a container has its GPUs; one that was made and never started has none."""

TICK_SECONDS = 0.05
LOOK_SECONDS = 2.0
"""A lock that somebody only looks at is free again long before."""

WORDS = 200
"""Bytes that are read of who holds a lock: everybody may write them."""


def marked(host: Host, client: Any | None) -> Host:
    """The host with every GPU's ``leased`` as it is now.

    Args:
        host: the machine.
        client: of the engine whose containers are looked at; None where there is none.

    Raises:
        EngineError: the engine stopped answering.
    """
    if not host.gpus:
        return host
    holders = _locked(gpu.uuid for gpu in host.gpus) | _of_containers(client)
    return replace(
        host, gpus=tuple(replace(gpu, leased=holders.get(gpu.uuid)) for gpu in host.gpus)
    )


def released(host: Host) -> Host:
    """The host as it will be once no run has a GPU any more."""
    gone: dict[str, Any] = {"leased": None, "users": ()}
    gpus = (replace(gpu, **gone, free=gpu.memory) if gpu.leased else gpu for gpu in host.gpus)
    return replace(host, gpus=tuple(gpus))


def in_use(gpus: Sequence[Gpu]) -> HardwareError:
    """The refusal where these GPUs, all of them leased, are needed."""
    said = "; ".join(f"{gpu.name} {gpu.uuid} is in use by {gpu.leased}" for gpu in gpus)
    return HardwareError(said, "--wait waits until it is free")


@contextmanager
def choosing(tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """For as long as this lasts nobody else on this machine chooses and starts.

    Args:
        tick: called again and again while somebody else does; may raise to give up.

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
    """Locks on GPUs, until its ``with`` block ends and all who inherited them are gone.

    Attributes:
        descriptors: open files, for a worker to inherit.
    """

    descriptors: tuple[int, ...] = ()

    @classmethod
    def take(cls, gpus: Sequence[Gpu]) -> Lease:
        """Lock these GPUs; only while :func:`choosing`.

        Raises:
            HardwareError: somebody has one of them.
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
        """Say who has it: the run, and in brackets the container or process."""
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):  # on a full disk it is another run's, unnamed
                os.pwrite(descriptor, holder.encode()[:WORDS], 0)

    def end(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


@engine_errors()
def _of_containers(client: Any | None) -> dict[str, str]:
    """UUID -> holder, of the containers of ours that have GPUs."""
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
    """UUID -> holder, of the GPUs of which somebody holds the lock."""
    holders = {}
    for uuid in uuids:
        try:
            descriptor = os.open(_file(uuid), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # nobody has ever had it; where one may not look, taking it will say so
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
            raise in_use([replace(gpu, leased=_locked([gpu.uuid]).get(gpu.uuid, "another run"))])

    return tick


def _file(name: str) -> Path:
    """The lock file of a GPU or of choosing; the same for every user of the machine."""
    folder = next(filter(_is_for_all, PLACES), PLACES[-1])
    return Path(folder, f"aligntune-gpu-{name.replace('/', '_')}.lock")


def _is_for_all(folder: str) -> bool:
    wanted = stat.S_ISVTX | stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
    return os.path.isdir(folder) and os.stat(folder).st_mode & wanted == wanted


def _lock(path: Path, tick: Callable[[], None]) -> int:
    """Lock a file and return its descriptor; ``tick`` is called while somebody else has it."""
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
        os.close(descriptor)  # it was tidied away meanwhile, so others would lock another one


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    """Open a lock file that may be another user's, or make it.

    In a folder that everybody may write to, the kernel can refuse to open another's file with
    O_CREAT (fs.protected_regular), so making and opening are two steps. A link, of either kind,
    would have us write elsewhere.
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
            raise OSError(errno.EINVAL, "it is not a plain file of its own")
    except OSError as error:
        raise EngineError(
            f"cannot use {path}, which tells who has a GPU: {error.strerror}",
            "Have it removed while no run is at work, or mend the folder's permissions",
        ) from error
    return descriptor
