"""A run from plan to record, with a worker that does as it is told in the engine's place."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.scripted_engine import Script, ScriptedWorker, finish, prepared

from aligntune.errors import (
    AligntuneError,
    DataError,
    ImageError,
    OutOfMemoryError,
    OutputError,
    StoppedError,
    TrainingError,
)
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import ErrorRecord, ExitRecord
from aligntune.spec.layers import from_file
from aligntune.spec.resolve import resolve
from aligntune_run.engines.base import Exit
from aligntune_run.runs.execute import execute


def end(code: int, oom: bool = False, output: str = "") -> Script:
    return lambda worker: Exit(code, oom, output)


def fetch(worker: ScriptedWorker) -> Exit:
    worker.run.update(fetched={"datasets": {}})
    return Exit(0, False, "")


def fail(error: AligntuneError) -> Script:
    def script(worker: ScriptedWorker) -> Exit:
        told = {"kind": type(error).__name__, "what": error.what, "remedy": error.remedy}
        with EventWriter(worker.run.events) as tell:
            tell("error", **told)
        status = "stopped" if isinstance(error, StoppedError) else "failed"
        worker.run.update(status=status, error=told)
        return Exit(error.exit_code, False, "noise")

    return script


def ignore(event: dict[str, Any]) -> None:
    """Nobody is watching."""


def error_of(folder: Path) -> ErrorRecord:
    error = RunDir(folder).record().error
    assert error is not None
    return error


def test_a_finished_run_leaves_its_record_and_a_spec_that_runs_it_again(tmp_path: Path) -> None:
    seen: list[str] = []
    plan = prepared(tmp_path / "run", train=finish)
    record = execute(plan, lambda event: seen.append(event["event"]))
    assert record.status == "finished"
    assert record.id == "id"
    assert record.exit == ExitRecord(code=0, oom=False)
    assert seen == ["end"]
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == record.to_dict()
    again = resolve([from_file(tmp_path / "run" / "spec.yaml")]).spec
    assert again.output is None, "run again, it gets a folder of its own"
    assert again == plan.plan.spec.model_copy(update={"output": None})


def test_phases_run_in_order_and_a_failed_one_is_the_last(tmp_path: Path) -> None:
    ran: list[str] = []

    def note(name: str, then: Script) -> Script:
        def script(worker: ScriptedWorker) -> Exit:
            ran.append(name)
            return then(worker)

        return script

    with pytest.raises(DataError):
        execute(
            prepared(
                tmp_path / "a", fetch=note("fetch", fail(DataError("no"))), train=note("t", finish)
            ),
            ignore,
        )
    assert ran == ["fetch"]
    execute(
        prepared(tmp_path / "b", fetch=note("fetch", fetch), train=note("train", finish)), ignore
    )
    assert ran == ["fetch", "fetch", "train"]


def test_the_worker_s_error_is_raised_as_the_same_class_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(DataError) as failed:
        execute(prepared(tmp_path, train=fail(DataError("line 3", "Mend it"))), ignore)
    assert (failed.value.what, failed.value.remedy) == ("line 3", "Mend it")
    assert failed.value.exit_code == 4
    assert error_of(tmp_path).kind == "DataError"


@pytest.mark.parametrize(
    ("left", "kind", "says"),
    [
        (end(137, oom=True), OutOfMemoryError, "killed at its limit of 1.0 GiB"),
        (end(137), OutOfMemoryError, "killed (signal 9)"),
        (end(-signal.SIGKILL), OutOfMemoryError, "killed (signal 9)"),
        (end(143), StoppedError, "without a checkpoint"),
        (end(127, output="not found\n"), ImageError, "does not start a worker: not found"),
        (end(139, output="step 1/3  loss 2.0"), TrainingError, "was ended by SIGSEGV"),
        (end(1, output="a\nKeyError: b\n\n"), TrainingError, "ended with code 1: KeyError: b"),
        (end(5, output="error: no space left"), OutputError, "no space left"),
    ],
)
def test_a_worker_that_ends_without_a_word_is_explained_by_how_it_ended(
    left: Script, kind: type[AligntuneError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(AligntuneError) as failed:
        execute(prepared(tmp_path, train=left), ignore)
    assert type(failed.value) is kind
    assert says in str(failed.value)
    record = RunDir(tmp_path).record()
    assert record.status == ("stopped" if kind is StoppedError else "failed")
    assert error_of(tmp_path).kind == kind.__name__


@pytest.mark.parametrize("phase", ["fetch", "train"])
def test_a_worker_that_ends_with_code_0_before_its_result_has_failed(
    phase: str, tmp_path: Path
) -> None:
    """As if a library had called ``os._exit(0)``."""
    scripts = {"fetch": fetch, "train": finish, phase: end(0)}
    with pytest.raises(TrainingError, match=f"code 0 in the middle of {phase}") as failed:
        execute(prepared(tmp_path, resumed=False, **scripts), ignore)
    record = RunDir(tmp_path).record()
    assert (record.status, record.exit) == ("failed", ExitRecord(code=0))
    assert error_of(tmp_path).what == failed.value.what


def test_a_known_failure_in_the_log_explains_an_error_that_says_little(tmp_path: Path) -> None:
    def script(worker: ScriptedWorker) -> Exit:
        worker.run.log.write_text("RuntimeError: Failed to find C compiler. Please specify\n")
        return fail(TrainingError("the trainer failed: RuntimeError: 1", "See train.log"))(worker)

    with pytest.raises(TrainingError, match="Triton compiles kernels") as caught:
        execute(prepared(tmp_path / "run", train=script), lambda event: None)
    assert caught.value.exit_code == TrainingError.exit_code
    record = RunDir(tmp_path / "run").record()
    assert record.status == "failed"
    assert error_of(tmp_path / "run").what == caught.value.what
    assert error_of(tmp_path / "run").remedy.startswith("Install them")


def test_what_an_earlier_attempt_logged_explains_nothing_of_this_one(tmp_path: Path) -> None:
    def first(worker: ScriptedWorker) -> Exit:
        worker.run.log.write_text("CUDA out of memory\n")
        return fail(TrainingError("first"))(worker)

    run = tmp_path / "run"
    with pytest.raises(TrainingError, match="the GPU ran out of memory"):
        execute(prepared(run, train=first), lambda event: None)
    with pytest.raises(TrainingError) as caught:
        execute(
            prepared(run, resumed=True, train=fail(TrainingError("second"))), lambda event: None
        )
    assert caught.value.what == "second"


def test_a_run_that_finished_has_finished_although_a_helper_was_killed(tmp_path: Path) -> None:
    def finish_with_kill(worker: ScriptedWorker) -> Exit:
        finish(worker)
        return Exit(0, True, "")

    assert execute(prepared(tmp_path, train=finish_with_kill), ignore).status == "finished"


def test_a_run_whose_folder_is_removed_says_so(tmp_path: Path) -> None:
    def lose(worker: ScriptedWorker) -> Exit:
        shutil.rmtree(worker.run.path)
        return Exit(1, False, "")

    with pytest.raises(OutputError, match="was removed or renamed while its run was active"):
        execute(prepared(tmp_path / "run", train=lose), ignore)


def test_a_full_disk_leaves_a_resumed_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        execute(prepared(tmp_path, train=fail(StoppedError("stopped", "go on"))), ignore)
    before = RunDir(tmp_path).record()

    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="no space left for"):
        execute(prepared(tmp_path, resumed=True, train=finish), ignore)
    assert RunDir(tmp_path).record() == before


def test_of_two_runs_that_begin_at_once_in_one_folder_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both_find_it_new(run: RunDir) -> None:
        """The other one comes between the look and the first file."""
        run.spec.write_text("the other one's")

    monkeypatch.setattr(RunDir, "require_new", both_find_it_new)
    with pytest.raises(OutputError, match="File exists"):
        execute(prepared(tmp_path, train=finish), ignore)
    assert RunDir(tmp_path).spec.read_text() == "the other one's"
    assert not RunDir(tmp_path).record_file.exists()


def test_a_folder_that_was_taken_since_the_plan_was_made_is_left_alone(tmp_path: Path) -> None:
    plan = prepared(tmp_path, train=finish)
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(OutputError, match="is not empty"):
        execute(plan, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_resumed_run_keeps_its_record_and_does_not_fail_of_its_old_error(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        execute(prepared(tmp_path, train=fail(StoppedError("stopped", "go on"))), ignore)
    created = RunDir(tmp_path).record().created
    record = execute(prepared(tmp_path, resumed=True, train=finish), ignore)
    assert (record.status, record.error) == ("finished", None)
    assert record.created == created


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_worker_to_stop_and_the_second_ends_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    asked: list[tuple[str, ...]] = []

    def script(worker: ScriptedWorker) -> Exit:
        os.kill(os.getpid(), number)
        asked.append(worker.asked)
        os.kill(os.getpid(), number)
        asked.append(worker.asked)
        return fail(StoppedError("stopped"))(worker)

    before = signal.getsignal(number)
    with pytest.raises(StoppedError) as stopped:
        execute(prepared(tmp_path, train=script), ignore)
    assert asked == [("stop",), ("stop", "kill")]
    assert stopped.value.exit_code == 75
    assert signal.getsignal(number) is before


def test_each_signal_is_answered_at_once_with_what_happens_next(tmp_path: Path) -> None:
    looks: list[int] = []

    def script(worker: ScriptedWorker) -> Exit:
        looks.append(1)
        if len(looks) in (1, 3):
            os.kill(os.getpid(), signal.SIGINT)
        if len(looks) < 5:
            return None  # type: ignore[return-value]  # it still runs
        return fail(StoppedError("stopped"))(worker)

    notes: list[str] = []
    with pytest.raises(StoppedError):
        execute(
            prepared(tmp_path, train=script),
            lambda event: notes.append(event["message"]) if event["event"] == "note" else None,
        )
    assert notes == [
        "stopping after this step, with a checkpoint if training has begun. "
        "Ctrl-C again ends it at once",
        "ending at once",
    ]
