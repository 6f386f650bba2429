"""Leases of GPUs: real locks, real processes, and an engine whose containers are told of."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers.hosts import make_host
from tests.helpers.scripted_engine import ScriptedEngine, ScriptedPlanner, finish, prepared

from aligntune import contract
from aligntune.errors import AligntuneError, EngineError, HardwareError, StoppedError
from aligntune.record.events import Event
from aligntune.record.run_dir import RunDir
from aligntune_run.engines import gpu_leases
from aligntune_run.engines.base import Command
from aligntune_run.engines.gpu_leases import GpusInUseError, Lease, LocalGpus, choosing, mark_leased
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.engines.local.environment import VenvEnvironment
from aligntune_run.engines.local.worker import ProcessWorker
from aligntune_run.host.types import Gpu, Host
from aligntune_run.plan import Choice
from aligntune_run.planning.planner import Prepared
from aligntune_run.runs import launch
from aligntune_run.runs.execute import execute
from aligntune_run.selection.rules import MACHINE
from aligntune_run.selection.select import bare_request, gpu_options, require, situate

FIRST = Gpu(0, "GPU-aaaa", "NVIDIA H100", (9, 0), 2**36, 2**36)
SECOND = replace(FIRST, index=1, uuid="GPU-bbbb")

AS_OTHERS = """
import sys
from dataclasses import replace
from aligntune_run.engines import gpu_leases
from aligntune_run.host.gpus import Gpu
gpu_leases.PLACES = (sys.argv[1],)
GPU = Gpu(0, "GPU-aaaa", "NVIDIA H100", (9, 0), 2**36, 2**36)
"""
"""The beginning of a program that leases GPUs where the test does."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for locks, of this test alone."""
    folder = tmp_path / "locks"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(gpu_leases, "PLACES", (str(folder),))
    monkeypatch.setattr(gpu_leases, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.05)
    return folder


@pytest.fixture
def other(place: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start another program that leases; it has printed a line when this returns."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str, **how: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", AS_OTHERS + code, str(place), str(place.parent)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
            **how,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


def host(tmp_path: Path, *gpus: Gpu) -> Host:
    return make_host(tmp_path, gpus=gpus or (FIRST, SECOND))


def held(tmp_path: Path, client: Any = None) -> list[str | None]:
    return [gpu.leased for gpu in mark_leased(host(tmp_path), client).gpus]


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


class TestLocks:
    def test_nobody_has_a_gpu_that_nobody_took(self, tmp_path: Path, place: Path) -> None:
        assert held(tmp_path) == [None, None]
        assert list(place.iterdir()) == [], "looking leaves nothing behind"

    def test_who_has_a_gpu_is_told_by_name(self, tmp_path: Path) -> None:
        with Lease.take([FIRST]) as lease:
            assert held(tmp_path) == ["another run", None]
            lease.sign("a-run (pid 4711)")
            assert held(tmp_path) == ["a-run (pid 4711)", None]
        assert held(tmp_path) == [None, None]

    def test_an_earlier_holder_is_forgotten(self, tmp_path: Path) -> None:
        with Lease.take([FIRST]) as lease:
            lease.sign("a-run (pid 4711)")
        with Lease.take([FIRST]):
            assert held(tmp_path) == ["another run", None]

    def test_what_a_stranger_wrote_cannot_upset_the_terminal(self, tmp_path: Path) -> None:
        with Lease.take([FIRST]) as lease:
            os.pwrite(lease.descriptors[0], b"\x1b[2J\xff\n" + b"x" * 9999, 0)
            (told, _) = held(tmp_path)
        assert told is not None
        assert told.isprintable()
        assert len(told) < 300

    def test_a_gpu_is_taken_once(self) -> None:
        with Lease.take([FIRST]) as lease:
            lease.sign("a-run (pid 4711)")
            with pytest.raises(GpusInUseError) as refused:
                Lease.take([SECOND, FIRST])
            assert "GPU-aaaa is in use by a-run (pid 4711)" in refused.value.refusal.what
        Lease.take([SECOND, FIRST]).end()

    def test_what_cannot_be_had_whole_is_not_taken_in_part(self, tmp_path: Path) -> None:
        with Lease.take([SECOND]):
            with pytest.raises(GpusInUseError):
                Lease.take([FIRST, SECOND])
            assert held(tmp_path)[0] is None

    def test_looking_does_not_stand_in_the_way_of_taking(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Lease.take([FIRST]).end()
        looking = os.open(gpu_leases._file(FIRST.uuid), os.O_RDONLY)
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: os.close(looking))
        Lease.take([FIRST]).end()

    def test_one_launch_chooses_at_a_time(self, other: Callable[..., Any]) -> None:
        chooser = other(
            "with gpu_leases.choosing():\n print('chooses', flush=True)\n sys.stdin.read()",
            stdin=subprocess.PIPE,
        )
        asked = []

        def tick() -> None:
            asked.append(1)
            if len(asked) == 2:
                chooser.stdin.close()

        with choosing(tick):
            assert len(asked) >= 2

    def test_waiting_for_ones_turn_can_be_given_up(self) -> None:
        def tick() -> None:
            raise StoppedError("enough")

        with choosing(), pytest.raises(StoppedError, match="enough"), choosing(tick):
            raise AssertionError("both choose")

    def test_a_lock_that_was_tidied_away_while_it_was_waited_for_is_not_relied_on(self) -> None:
        path = gpu_leases._file("choosing")
        first = choosing()
        first.__enter__()

        def tick() -> None:
            path.unlink()
            first.__exit__(None, None, None)

        with choosing(tick), pytest.raises(StoppedError), choosing(stop):
            raise AssertionError("both choose")

    def test_every_user_locks_the_same_file_whatever_the_umask(self, place: Path) -> None:
        before = os.umask(0o077)
        try:
            with choosing(), Lease.take([FIRST]):
                modes = [stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()]
        finally:
            os.umask(before)
        assert modes == [0o666, 0o666]

    @pytest.mark.skipif(os.geteuid() != 0, reason="to be two users one has to be root")
    def test_another_user_s_lease_is_seen_and_respected(
        self, tmp_path: Path, other: Callable[..., Any]
    ) -> None:
        hold = "lease = gpu_leases.Lease.take([GPU]); lease.sign('theirs (pid 1)')\n"
        tell = "print('holds', flush=True); sys.stdin.read()"
        with Lease.take([FIRST]):
            pass  # the file is root's
        for parent in tmp_path.parents:
            if parent.name.startswith("pytest-"):
                parent.chmod(0o755)
        tmp_path.chmod(0o755)
        become = "import os; os.setgid(1234); os.setuid(1234)\n"
        theirs = other(become + hold + tell, stdin=subprocess.PIPE)
        assert held(tmp_path) == ["theirs (pid 1)", None]
        with pytest.raises(GpusInUseError):
            Lease.take([FIRST])
        theirs.kill()
        theirs.wait()
        assert held(tmp_path) == [None, None]

    @pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
    def test_what_is_no_lock_file_is_refused_and_left_alone(
        self, tmp_path: Path, kind: str
    ) -> None:
        path, precious = gpu_leases._file(FIRST.uuid), tmp_path / "precious"
        precious.write_text("precious")
        if kind == "link":
            path.symlink_to(precious)
        elif kind == "hard link":
            os.link(precious, path)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        assert held(tmp_path) == [None, None]
        with pytest.raises(EngineError, match=r"aligntune-gpu-GPU-aaaa\.lock") as refused:
            Lease.take([FIRST])
        assert refused.value.remedy
        assert precious.read_text() == "precious"

    def test_a_slice_s_old_name_with_slashes_is_one_file(self, place: Path) -> None:
        with Lease.take([replace(FIRST, uuid="MIG-GPU-aaaa/1/0")]):
            assert [path.parent for path in place.rglob("*.lock")] == [place]

    def test_locks_lie_where_everybody_may_make_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine, everybodys = tmp_path / "mine", tmp_path / "everybodys"
        for folder, mode in ((mine, 0o755), (everybodys, 0o1777)):
            folder.mkdir()
            folder.chmod(mode)
        monkeypatch.setattr(gpu_leases, "PLACES", ("/no/such", str(mine), str(everybodys), "/tmp"))
        assert gpu_leases._file("GPU-1").parent == everybodys


def stop() -> None:
    raise StoppedError("stopped")


class TestProcesses:
    """A lease is the worker's: the launcher may be killed."""

    LAUNCHER = """
from aligntune_run.engines.base import Command
from aligntune_run.engines.local.engine import ProcessEngine
from tests.helpers.hosts import make_host
from pathlib import Path
command = ["sleep", "60"]
folder = sys.argv[2]
values = {"command": command, "environment": {}, "without": [], "working_dir": folder}
engine = ProcessEngine(make_host(Path(folder), gpus=(GPU,)), {"PATH": "/usr/bin:/bin"})
worker = engine.attach(engine.submit(Command("train", values, "a-run", (GPU.uuid,)), len))
print(worker.pid, flush=True)
worker.wait(60)
"""

    def test_it_outlives_the_launcher_and_ends_with_the_worker(
        self, tmp_path: Path, other: Callable[..., Any]
    ) -> None:
        code = self.LAUNCHER.replace("print(worker.pid", "print(sys.argv[1]")
        launcher = other(code)
        launcher.kill()
        launcher.wait()
        (holder, _) = held(tmp_path)
        assert holder is not None
        assert holder.startswith("a-run (pid ")
        pid = int(holder.removesuffix(")").rpartition(" ")[2])
        os.kill(pid, 0)
        os.killpg(pid, signal.SIGKILL)
        until(lambda: held(tmp_path) == [None, None])

    def test_children_that_are_left_behind_are_ended_with_it(self, tmp_path: Path) -> None:
        worker = self.worker(tmp_path, "sleep 60 & exit 0", FIRST.uuid)
        worker.detach()
        assert worker.wait(5) is not None, "what it left behind is ended with it"
        until(lambda: held(tmp_path) == [None, None])

    def test_a_worker_without_gpus_inherits_nothing(self, tmp_path: Path) -> None:
        lease = Lease.take([FIRST])
        worker = self.worker(tmp_path, "sleep 60")
        lease.end()
        assert held(tmp_path) == [None, None]
        worker.kill()
        worker.wait(5)

    def worker(self, tmp_path: Path, script: str, *gpus: str) -> ProcessWorker:
        words = ["sh", "-c", script]
        values = {"command": words, "environment": {}, "without": [], "working_dir": str(tmp_path)}
        engine = ProcessEngine(host(tmp_path), {"PATH": os.environ["PATH"]})
        return engine.attach(engine.submit(Command("train", values, "a-run", gpus), print))


def client(*containers: tuple[str, str]) -> Any:
    """An engine with containers of ours: state and GPUs."""
    listed = [
        {
            "State": state,
            "Names": [f"/aligntune-run-{number}-train-1"],
            "Labels": {contract.LABEL_RUN_ID: f"run-{number}", contract.LABEL_GPUS: gpus},
        }
        for number, (state, gpus) in enumerate(containers)
    ]

    def answer(**asked: Any) -> list[dict[str, Any]]:
        assert asked == {"all": True, "filters": {"label": contract.LABEL_GPUS}}
        return listed

    return SimpleNamespace(api=SimpleNamespace(containers=answer))


class TestContainers:
    def test_a_container_has_the_gpus_of_its_label(self, tmp_path: Path) -> None:
        one = client(("running", "GPU-aaaa,GPU-bbbb"))
        assert held(tmp_path, one) == ["run-0 (container aligntune-run-0-train-1)"] * 2

    @pytest.mark.parametrize(
        ("state", "has"),
        [
            ("running", True),
            ("paused", True),
            ("restarting", True),
            ("created", False),
            ("exited", False),
            ("dead", False),
        ],
    )
    def test_it_has_them_while_it_runs(self, tmp_path: Path, state: str, has: bool) -> None:
        assert (held(tmp_path, client((state, "GPU-aaaa")))[0] is not None) is has

    def test_where_no_gpu_is_there_no_engine_is_asked(self, tmp_path: Path) -> None:
        nothing = make_host(tmp_path)
        assert mark_leased(nothing, SimpleNamespace()) is nothing


def choose_gpus(wanted: str, host: Host) -> list[str]:
    """UUIDs of what a request gets in a process, or the refusal."""
    request = bare_request(engine="process", gpus=wanted)
    at = situate(request, host, gpu_options(wanted, host.gpus)[0])
    require(MACHINE.judge(at))
    return [gpu.uuid for gpu in at.gpus]


class TestChoosing:
    """With :func:`~aligntune_run.engines.gpu_leases.mark_leased`, a free GPU is chosen."""

    @pytest.mark.parametrize("wanted", ["auto", "1", "GPU-bbbb"])
    def test_a_gpu_that_a_run_has_is_passed_over(self, tmp_path: Path, wanted: str) -> None:
        machine = host(tmp_path, replace(FIRST, leased="a-run (pid 1)"), SECOND)
        assert choose_gpus(wanted, machine) == ["GPU-bbbb"]

    @pytest.mark.parametrize("wanted", ["auto", "1", "GPU-aaaa"])
    def test_where_all_are_had_it_says_by_whom(self, tmp_path: Path, wanted: str) -> None:
        runs = [replace(gpu, leased=f"{gpu.uuid}-run") for gpu in (FIRST, SECOND)]
        with pytest.raises(HardwareError, match="GPU-aaaa is in use by GPU-aaaa-run") as refused:
            choose_gpus(wanted, host(tmp_path, *runs))
        assert "--wait" in refused.value.remedy

    def test_the_cpu_is_always_free(self, tmp_path: Path) -> None:
        runs = [replace(gpu, leased="a-run") for gpu in (FIRST, SECOND)]
        assert choose_gpus("0", host(tmp_path, *runs)) == []

    def test_released_is_how_it_will_be(self, tmp_path: Path) -> None:
        machine = host(tmp_path, replace(FIRST, leased="a-run"), SECOND)
        assert gpu_leases.without_leases(machine) == host(tmp_path)


def picking(host: Host) -> Choice:
    """The first free GPU, as choosing does it."""
    free = [gpu for gpu in host.gpus if not gpu.leased]
    if not free:
        raise GpusInUseError(host.gpus).refusal
    return Choice("trl", "cuda", "docker", None, "f00", (free[0].uuid,), free[0].uuid, (), ())


def on_gpus(
    tmp_path: Path,
    wait: bool = False,
    choose: Any = picking,
    engine: Any = None,
    look: Any = None,
) -> Prepared:
    """A run that was given the first GPU."""
    made = prepared(tmp_path / "run")
    machine = host(tmp_path)
    planner = ScriptedPlanner(
        machine,
        engine or ScriptedEngine({"train": finish}, LocalGpus(machine)),
        choose=choose,
        look=look or (lambda: mark_leased(machine, None)),
        waits=wait,
    )
    return Prepared(replace(made.plan, choice=picking(machine)), planner)


TRY_TO_LOCK = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


def test_a_program_of_exec_has_its_gpu_while_it_runs(tmp_path: Path, place: Path) -> None:
    machine = host(tmp_path)
    environment = VenvEnvironment(LocalGpus(machine), ("GPU-aaaa",), dict(os.environ))
    lock = place / "aligntune-gpu-GPU-aaaa.lock"
    words = [sys.executable, "-c", TRY_TO_LOCK, str(lock)]
    assert environment.run(words, ()) == 1, "it is taken"
    assert held(tmp_path) == [None, None], "and free again"
    assert replace(environment, gpus=()).run(words, ()) == 0
    with Lease.take([FIRST]), pytest.raises(HardwareError, match="is in use by"):
        environment.run(words, ())


class TestStarting:
    def test_a_run_has_its_gpu_while_it_is_at_work_and_no_longer(self, tmp_path: Path) -> None:
        seen = []

        def script(worker: Any) -> Any:
            seen.append(held(tmp_path))
            return finish(worker)

        record = execute(
            on_gpus(tmp_path, engine=ScriptedEngine({"train": script}, LocalGpus(host(tmp_path)))),
            quiet,
        )
        assert seen == [["id (script)", None]]
        assert held(tmp_path) == [None, None]
        assert record.choice.gpus == ["GPU-aaaa"]

    def test_where_another_was_quicker_it_takes_one_that_is_free(self, tmp_path: Path) -> None:
        given: list[Any] = []

        class Engine(ScriptedEngine):
            def commands(self, plan: Any) -> Any:
                given.append(plan.choice.gpus)
                return super().commands(plan)

        mine = on_gpus(tmp_path, engine=Engine({"train": finish}, LocalGpus(host(tmp_path))))
        with Lease.take([FIRST]):
            record = execute(mine, quiet)
        assert given == [("GPU-aaaa",), ("GPU-bbbb",)]
        assert record.choice.gpus == ["GPU-bbbb"]
        assert record.to_dict()["plan"]["choice"]["reason"] == "GPU-bbbb"

    def test_where_none_is_free_it_is_refused_with_who_has_them(self, tmp_path: Path) -> None:
        with Lease.take([FIRST, SECOND]) as lease:
            lease.sign("theirs (pid 4711)")
            with pytest.raises(HardwareError, match=r"theirs \(pid 4711\)") as refused:
                execute(on_gpus(tmp_path), quiet)
        assert "--wait" in refused.value.remedy
        record = RunDir(tmp_path / "run").record()
        assert (record.status, record.error and record.error.kind) == ("failed", "HardwareError")

    def test_it_can_wait_and_says_for_whom_once(self, tmp_path: Path) -> None:
        lease = Lease.take([FIRST, SECOND])
        lease.sign("theirs (pid 4711)")
        looks: list[int] = []
        told: list[Event] = []

        def look() -> Host:
            looks.append(1)
            if len(looks) == 3:
                lease.end()
            return mark_leased(host(tmp_path), None)

        assert execute(on_gpus(tmp_path, wait=True, look=look), told.append).status == "finished"
        notes = [event["message"] for event in told if event["event"] == "note"]
        assert len(notes) == 1
        assert "theirs (pid 4711)" in notes[0]

    def test_waiting_ends_with_a_signal_and_can_be_gone_on_with(self, tmp_path: Path) -> None:
        def told(event: Event) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        with Lease.take([FIRST, SECOND]), pytest.raises(StoppedError) as stopped:
            execute(on_gpus(tmp_path, wait=True), told)
        assert stopped.value.exit_code == 75
        assert f"--resume {tmp_path / 'run'}" in stopped.value.remedy
        assert RunDir(tmp_path / "run").record().status == "stopped"

    @pytest.mark.parametrize(
        "other", [{"backend": "unsloth"}, {"flavour": "cpu", "gpus": ()}, {"lock_hash": "other"}]
    )
    def test_it_does_not_become_another_run_for_want_of_a_gpu(
        self, tmp_path: Path, other: dict[str, Any]
    ) -> None:
        another = on_gpus(tmp_path, choose=lambda host: replace(picking(host), **other))
        with Lease.take([FIRST]), pytest.raises(HardwareError, match="GPU-aaaa is in use"):
            execute(another, quiet)

    def test_an_engine_that_refuses_leaves_the_gpu_free(self, tmp_path: Path) -> None:
        class Refusing(ScriptedEngine):
            def submit(self, command: Any, record: Any, tick: Any = None) -> Any:
                def refuse(handle: str) -> None:
                    raise EngineError("no")

                return super().submit(command, refuse)

        engine = Refusing({"train": finish}, LocalGpus(host(tmp_path)))
        with pytest.raises(AligntuneError, match="no"):
            execute(on_gpus(tmp_path, engine=engine), quiet)
        assert held(tmp_path) == [None, None]

    def test_a_run_on_the_cpu_leases_nothing(self, tmp_path: Path, place: Path) -> None:
        execute(prepared(tmp_path / "run", train=finish), quiet)
        assert list(place.iterdir()) == []


def quiet(event: Event) -> None:
    """Nobody watches."""
