"""GPU leases: locks, and the processes and containers that hold them."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers.hosts import make_host

from aligntune import contract
from aligntune.errors import EngineError, StoppedError
from aligntune_run.engines import gpu_leases
from aligntune_run.engines.base import Command
from aligntune_run.engines.gpu_leases import GpusInUseError, Lease, choosing, mark_leased
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.engines.local.worker import ProcessWorker
from aligntune_run.host.types import Gpu, Host

FIRST = Gpu(0, "GPU-aaaa", "NVIDIA H100", (9, 0), 2**36, 2**36)
SECOND = replace(FIRST, index=1, uuid="GPU-bbbb")


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
            if parent.name.startswith(("pytest-", "popen-")):
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
        worker = self.worker(tmp_path, "sleep 600 & exit 0", FIRST.uuid)
        worker.detach()
        assert worker.wait(60) is not None, "what it left behind is ended with it"
        until(lambda: held(tmp_path) == [None, None])

    def test_a_worker_without_gpus_inherits_nothing(self, tmp_path: Path) -> None:
        lease = Lease.take([FIRST])
        worker = self.worker(tmp_path, "sleep 600")
        lease.end()
        assert held(tmp_path) == [None, None]
        worker.kill()
        worker.wait(60)

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
