"""Choosing a GPU and starting on it: what is held is passed over, waited for, or named."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hosts import make_host
from tests.helpers.scripted_engine import ScriptedEngine, ScriptedPlanner, finish, prepared

from aligntune.errors import AligntuneError, EngineError, HardwareError, StoppedError
from aligntune.record.events import Event
from aligntune.record.run_dir import RunDir
from aligntune_run.engines import gpu_leases
from aligntune_run.engines.gpu_leases import GpusInUseError, Lease, LocalGpus, mark_leased
from aligntune_run.engines.local.environment import VenvEnvironment
from aligntune_run.host.types import Gpu, Host
from aligntune_run.plan import Choice
from aligntune_run.planning.planner import Prepared
from aligntune_run.runs.execute import execute
from aligntune_run.selection.rules import MACHINE
from aligntune_run.selection.select import bare_request, gpu_options, require, situate

FIRST = Gpu(0, "GPU-aaaa", "NVIDIA H100", (9, 0), 2**36, 2**36)
SECOND = replace(FIRST, index=1, uuid="GPU-bbbb")


def host(tmp_path: Path, *gpus: Gpu) -> Host:
    return make_host(tmp_path, gpus=gpus or (FIRST, SECOND))


def held(tmp_path: Path, client: Any = None) -> list[str | None]:
    return [gpu.leased for gpu in mark_leased(host(tmp_path), client).gpus]


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
        events: list[Event] = []

        def look() -> Host:
            looks.append(1)
            if len(looks) == 3:
                lease.end()
            return mark_leased(host(tmp_path), None)

        assert execute(on_gpus(tmp_path, wait=True, look=look), events.append).status == "finished"
        notes = [event["message"] for event in events if event["event"] == "note"]
        assert len(notes) == 1
        assert "theirs (pid 4711)" in notes[0]

    def test_waiting_ends_with_a_signal_and_can_be_gone_on_with(self, tmp_path: Path) -> None:
        def on_event(event: Event) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        with Lease.take([FIRST, SECOND]), pytest.raises(StoppedError) as stopped:
            execute(on_gpus(tmp_path, wait=True), on_event)
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
