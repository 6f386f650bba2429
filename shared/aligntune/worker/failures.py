"""What went wrong, in the user's words, as an event, in the record and as an exit code."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress

from aligntune.errors import AligntuneError, StoppedError
from aligntune.failures import first_line, foreseen
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec

Job = Callable[[RunSpec, RunDir, EventWriter], None]


def guarded(job: Job, spec: RunSpec, run: RunDir, events: EventWriter) -> int:
    """Do a job; whatever goes wrong becomes an ``error`` event, a record and an exit code."""
    try:
        job(spec, run, events)
    except BaseException as error:
        failure = foreseen(error)
        if failure is None:
            traceback.print_exc()
            failure = AligntuneError(
                f"unexpected {type(error).__name__}: {first_line(error)}",
                f"This is a bug of ours; the traceback is at the end of {run.log.name}",
            )
        tell(failure, run, events)
        return failure.exit_code
    return 0


def tell(failure: AligntuneError, run: RunDir, events: EventWriter) -> None:
    """Say what went wrong: as an event, and in the record."""
    status = "stopped" if isinstance(failure, StoppedError) else "failed"
    told = {"kind": type(failure).__name__, "what": failure.what, "remedy": failure.remedy}
    with suppress(OSError):  # a full disk must not hide what went wrong, which is said first
        events("error", **told)
        run.update(status=status, error=told)
