"""Reports failures as an event, in the record and as an exit code."""

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
    """Run a job. A failure becomes an ``error`` event, a record and an exit code."""
    try:
        job(spec, run, events)
    except BaseException as error:
        failure = foreseen(error)
        if failure is None:
            traceback.print_exc()
            failure = AligntuneError(
                f"unexpected {type(error).__name__}: {first_line(error)}",
                f"This is a bug in aligntune-run; see the traceback at the end of {run.log.name}",
            )
        tell(failure, run, events)
        return failure.exit_code
    return 0


def tell(failure: AligntuneError, run: RunDir, events: EventWriter) -> None:
    """Report a failure as an event and in the record."""
    status = "stopped" if isinstance(failure, StoppedError) else "failed"
    error = {"kind": type(failure).__name__, "what": failure.what, "remedy": failure.remedy}
    with suppress(OSError):  # on a full disk, the event is printed before writing it fails
        events("error", **error)
        run.update(status=status, error=error)
