"""How a run ended: its error, from its worker's events or its exit code; written to the record."""

from __future__ import annotations

import signal
from typing import Any

from aligntune.errors import (
    KINDS,
    AligntuneError,
    ImageError,
    OutOfMemoryError,
    OutputError,
    StoppedError,
    TrainingError,
)
from aligntune.record.events import Event
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import RunRecord
from aligntune.units import gib
from aligntune_run.engines.base import Exit
from aligntune_run.plan import Plan


def find_failure(
    left: Exit, error_event: Event | None, plan: Plan, phase: str | None, record: RunRecord
) -> AligntuneError | None:
    """The error a phase ended with: its worker's error event, or what the exit means.

    A worker that ends with code 0 has succeeded only if it also wrote its result, because a library
    can end the process with code 0 at any point (``os._exit(0)``).

    Args:
        left: how the worker ended.
        error_event: the last ``error`` event of the worker.
        plan: of the run.
        phase: the phase that ended.
        record: the run's record, after the worker has ended.
    """
    if left.oom and left.code != 0:  # else only a helper process was killed
        return OutOfMemoryError(
            f"out of memory: the run was killed at its limit of {gib(plan.memory)}",
            "Lower training.batch_size or max_length, use --lora-rank, or raise --set memory=...",
        )
    if left.code == 0:
        if record.fetched is not None if phase == "fetch" else record.is_finished:
            return None
        return TrainingError(
            f"the worker ended with code 0 in the middle of {phase}, without a result: "
            "something that it imports or calls, such as a reward, ended the process",
            f"See the end of {plan.run_dir}/train.log",
        )
    if left.killed:
        return StoppedError(
            "ended at once, without a checkpoint of its own",
            plan.next_step.replace("Resume with", "Resume from the last one with"),
        )
    if error_event is not None:
        kind = KINDS.get(error_event["kind"], AligntuneError)
        error = kind(error_event["what"], error_event["remedy"])
        error.exit_code = left.code
        return error
    tail = [line for line in left.output.strip().splitlines() if line.strip()]
    last = f": {tail[-1].strip()}" if tail else ""
    if left.code in (137, -signal.SIGKILL):
        return OutOfMemoryError(
            "the run was killed (signal 9), most often because memory ran out",
            "Lower training.batch_size, or see the kernel's log (dmesg)",
        )
    if left.code == 128 + signal.SIGTERM:
        return StoppedError(
            "stopped without a checkpoint: the worker was not ready to write one",
            plan.next_step,
        )
    if left.code in (125, 126, 127):
        return ImageError(f"the image does not start a worker{last}", "Build it again")
    if left.code > 128:
        return TrainingError(
            f"the worker was ended by {_signal(left.code - 128)}", f"See {plan.run_dir}/train.log"
        )
    kind = next((kind for kind in KINDS.values() if kind.exit_code == left.code), TrainingError)
    return kind(f"the worker ended with code {left.code}{last}", f"See {plan.run_dir}/train.log")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def record_exit(run: RunDir, left: Exit, failure: AligntuneError | None) -> None:
    """Add the exit to the record, after the worker has ended."""
    values: dict[str, Any] = {"exit": {"code": left.code, "oom": left.oom}}
    record = run.record()
    if failure is not None:
        if record.status not in ("failed", "stopped"):
            values |= ending_fields(failure)
        elif record.error and record.error.kind == type(failure).__name__:
            values |= {"error": _fields(failure)}  # the worker's own error, explained from its log
    if not run.path.exists():
        raise OutputError(f"{run.path} was removed or renamed while its run was active")
    with run.writing(f"Fix that, then: aligntune-run --resume {run.path}"):
        run.update(**values)


def ending_fields(failure: AligntuneError) -> dict[str, Any]:
    """A failure's fields of the record."""
    stopped = isinstance(failure, StoppedError)
    return {"status": "stopped" if stopped else "failed", "error": _fields(failure)}


def _fields(failure: AligntuneError) -> dict[str, str]:
    return {"kind": type(failure).__name__, "what": failure.what, "remedy": failure.remedy}
