"""Every expected failure: its class, its exit code, what happened and what to do.

A traceback means a bug. The worker writes failures as ``error`` events and the launcher raises the
same class again, so the exit code is the same on the host and in the container.
"""

from __future__ import annotations


class AligntuneError(Exception):
    """An expected failure: one line that says what happened, and one that says what to do.

    Args:
        what: what happened, with the file, key, line or value.
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
    """External text for a message: printable, on one line, and shortened."""
    line = str(text)
    if not line.isprintable():
        start = line[: limit + 1]
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in start)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


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
    """The image is missing and cannot be obtained, or breaks the launcher's contract."""

    exit_code = 7


class HardwareError(AligntuneError):
    """The machine cannot do this: too few GPUs, no free GPU, an unsupported platform."""

    exit_code = 8


class BackendError(AligntuneError):
    """``--strict``: the requested backend is unavailable."""

    exit_code = 9


class OutOfMemoryError(AligntuneError):
    """The host, the container's limit or the GPU ran out of memory."""

    exit_code = 10


class HubError(AligntuneError):
    """The model hub: unreachable, refused, no such repository or revision."""

    exit_code = 11


class TrainingError(AligntuneError):
    """Training started and failed: a loss that is not a number, an error inside the trainer."""

    exit_code = 12


class RewardError(AligntuneError):
    """A reward failed: its file does not import, or its function raised, returned something other
    than one number per sample, or did not return in time."""

    exit_code = 13


class StoppedError(AligntuneError):
    """Stopped from outside after a checkpoint was written; the run can be resumed (EX_TEMPFAIL)."""

    exit_code = 75


KINDS: dict[str, type[AligntuneError]] = {
    kind.__name__: kind for kind in AligntuneError.__subclasses__()
}
"""Every class above by its name, as in records and events."""
