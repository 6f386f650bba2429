"""Every failure a user can meet: its kind, its exit code, what happened and what to do.

A traceback is for bugs; anything foreseen is one of these. The worker writes them as ``error``
events, and the launcher raises them again as the same class, so the exit code is the same whether
the host or the container noticed first.
"""

from __future__ import annotations


class AligntuneError(Exception):
    """A foreseen failure: one line of what happened, one of what to do about it.

    Args:
        what: what happened, naming the file, key, line or value it happened to.
        remedy: what the user can do, as an imperative; may be empty.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        stop = "" if self.what.endswith(("?", ".", "!")) else "."
        return f"{self.what}{stop} {self.remedy}" if self.remedy else self.what


def shown(text: object, limit: int = 80) -> str:
    """Somebody else's text as it may stand in a message: printable, in one line, and cut."""
    told = str(text)
    if not told.isprintable():
        told = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in told[: limit + 1])
    return told if len(told) <= limit else f"{told[: limit - 3]}..."


class SpecError(AligntuneError):
    """The request itself is wrong: an unknown key or algorithm, a value out of range."""

    exit_code = 2


class ModelError(AligntuneError):
    """The model or tokenizer cannot be used: missing, without weights, no chat template."""

    exit_code = 3


class DataError(AligntuneError):
    """The data cannot be used: missing, malformed, empty, of mixed format."""

    exit_code = 4


class OutputError(AligntuneError):
    """The run directory cannot be used: a finished run, not writable, no space left."""

    exit_code = 5


class EngineError(AligntuneError):
    """No engine can run this: none reachable, a remote one, or one that refused."""

    exit_code = 6


class ImageError(AligntuneError):
    """The image is missing and cannot be had, or breaks the launcher's contract."""

    exit_code = 7


class HardwareError(AligntuneError):
    """The machine cannot do this: too few GPUs, none that is free, an unsupported platform."""

    exit_code = 8


class BackendError(AligntuneError):
    """``--strict``: the backend that was asked for cannot be had."""

    exit_code = 9


class OutOfMemoryError(AligntuneError):
    """The host, the container's limit or the GPU ran out of memory."""

    exit_code = 10


class HubError(AligntuneError):
    """The model hub: unreachable, refused, no such repository or revision."""

    exit_code = 11


class TrainingError(AligntuneError):
    """Training began and failed: a loss that is not a number, an error inside the trainer."""

    exit_code = 12


class RewardError(AligntuneError):
    """A reward: a file that does not import, a function that raised, returned what is no number or
    the wrong length, or never returned."""

    exit_code = 13


class StoppedError(AligntuneError):
    """Stopped from outside after a checkpoint was written; the run can be resumed (EX_TEMPFAIL)."""

    exit_code = 75


KINDS: dict[str, type[AligntuneError]] = {
    kind.__name__: kind
    for kind in (
        SpecError,
        ModelError,
        DataError,
        OutputError,
        EngineError,
        ImageError,
        HardwareError,
        BackendError,
        OutOfMemoryError,
        HubError,
        TrainingError,
        RewardError,
        StoppedError,
    )
}
