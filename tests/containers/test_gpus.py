"""GPUs reach the engine as they should, and one run at a time: the real command and a real dockerd,
on GPUs that stand-ins for NVIDIA's driver library and for its container hook tell of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.containers.gpu_engine import IMAGE, GpuEngine, gpu_engine, until
from tests.containers.runs import ROOT, TRACEBACK, Bench
from tests.helpers import nvml
from tests.helpers.checkpoints import write_model

from aligntune import contract
from aligntune.errors import HardwareError
from aligntune.record.run_dir import RunDir
from aligntune_run.engines.gpu_leases import Lease, choosing
from aligntune_run.host.types import Gpu

TIMEOUT = 600
TWO = {nvml.uuid(0), nvml.uuid(1)}


@pytest.fixture(scope="module")
def engine() -> Iterator[GpuEngine]:
    folder = Path(tempfile.mkdtemp(prefix="gpus-"))
    folder.chmod(0o755)
    with gpu_engine(folder) as made:
        yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def bench(engine: GpuEngine) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="gpus-bench-"))
    folder.chmod(0o755)
    made = Bench(folder)
    write_model(made.models / "m")
    made.write("d.jsonl", [{"text": "one"}])
    yield made
    shutil.rmtree(folder)


@dataclass
class Machine:
    """A machine with two GPUs, and the runs that were started on it."""

    engine: GpuEngine
    bench: Bench
    gpus: dict[str, str]
    started: list[Run] = field(default_factory=list)

    def launch(self, *words: str, root: bool = False, engine: str = "docker") -> Run:
        """``aligntune-run --algo sft ...`` as the stranger, or as root."""
        run = self.bench.output()
        asked = ["--algo", "sft", "--model", str(self.bench.models / "m")]
        asked += ["--dataset", str(self.bench.folder / "data" / "d.jsonl"), "--output", str(run)]
        asked += ["--engine", engine, "--json", "--set=training.max_steps=1", *words]
        if engine == "docker":
            asked += ["--image", IMAGE]
        environment = {**self.gpus, **self.engine.variables}
        self.bench.give_away()
        if root:
            own = {"PYTHONPATH": f"{ROOT}/launcher:{ROOT}/shared", "HOME": str(run.parent / "root")}
            command = subprocess.Popen(
                [sys.executable, "-m", "aligntune_run", *asked],
                env={**os.environ, **environment, **own},
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        else:
            home = self.bench.environment["LD_LIBRARY_PATH"]
            environment["LD_LIBRARY_PATH"] += f":{home}"
            command = self.bench.start(*asked, environment=environment)
        self.started.append(Run(command, run))
        return self.started[-1]


@dataclass
class Run:
    """A command that was started, and its run directory."""

    command: subprocess.Popen[str]
    folder: Path

    def at_work(self) -> Run:
        """When its worker has begun."""
        until(self._is_at_work, f"{self.folder} is at work")
        return self

    def _is_at_work(self) -> bool:
        assert self.command.poll() is None, self.command.communicate()
        return (self.folder / "events.jsonl").exists()

    def end(self) -> dict[str, Any]:
        """Let its worker end as one that has finished; the record that the command printed."""
        RunDir(self.folder).update(status="finished")
        (self.folder / "enough").touch()
        out, err = self.command.communicate(timeout=TIMEOUT)
        assert self.command.returncode == 0, err
        return dict(json.loads(out))

    def refused(self) -> str:
        """What it said when it gave up for want of a GPU."""
        _, err = self.command.communicate(timeout=TIMEOUT)
        assert self.command.returncode == HardwareError.exit_code, err
        assert TRACEBACK not in err
        return err

    @property
    def id(self) -> str:
        return str(json.loads((self.folder / "run.json").read_text())["id"])


@pytest.fixture
def machine(engine: GpuEngine, bench: Bench) -> Iterator[Machine]:
    gpus = nvml.stand_in(bench.folder, gpus=2)
    library = gpus["LD_LIBRARY_PATH"].partition(":")[0]
    Path(library).chmod(0o755)  # the stranger reads it too
    made = Machine(engine, bench, gpus)
    yield made
    for run in made.started:
        with run.command as command:
            command.kill()
    for container in engine.client.containers.list(all=True):
        container.remove(force=True)


def devices(machine: Machine, run: Run) -> list[str]:
    """The GPUs that the engine was asked for, for a run."""
    (request,) = machine.engine.container_of(run.folder)["HostConfig"]["DeviceRequests"]
    return list(request["DeviceIDs"])


def test_the_engine_and_the_hook_are_asked_for_exactly_the_gpu_of_the_plan(
    machine: Machine,
) -> None:
    run = machine.launch("--gpus", nvml.uuid(1)).at_work()
    told = machine.engine.container_of(run.folder)
    assert told["HostConfig"]["DeviceRequests"] == [
        {
            "Driver": "",
            "Count": 0,
            "DeviceIDs": [nvml.uuid(1)],
            "Capabilities": [["gpu", "compute", "utility"]],
            "Options": {},
        }
    ]
    assert told["Config"]["Labels"][contract.LABEL_GPUS] == nvml.uuid(1)
    assert "CUDA_VISIBLE_DEVICES=" not in told["Config"]["Env"]
    asked = machine.engine.asked()[-1]
    assert asked == {
        "words": ["prestart"],
        "container": told["Id"],
        "devices": nvml.uuid(1),
        "capabilities": "compute,utility",
    }
    record = run.end()
    assert record["plan"]["choice"]["gpus"] == [nvml.uuid(1)]
    assert record["exit"]["code"] == 0


def test_a_run_on_the_cpu_asks_for_no_gpu(machine: Machine) -> None:
    before = machine.engine.asked()
    run = machine.launch("--gpus", "0").at_work()
    told = machine.engine.container_of(run.folder)
    assert not told["HostConfig"]["DeviceRequests"]
    assert contract.LABEL_GPUS not in told["Config"]["Labels"]
    assert "CUDA_VISIBLE_DEVICES=" in told["Config"]["Env"]
    run.end()
    assert machine.engine.asked() == before


def test_two_launches_at_once_by_two_users_take_two_gpus_and_a_third_is_refused_by_name(
    machine: Machine,
) -> None:
    runs = [machine.launch(root=root) for root in (False, True)]
    for run in runs:
        run.at_work()
    taken = [devices(machine, run) for run in runs]
    assert {uuid for one in taken for uuid in one} == TWO
    assert [len(one) for one in taken] == [1, 1]
    said = machine.launch().refused()
    for run in runs:
        assert f"{run.id} (container aligntune-{run.id}-train-1)" in said
    assert "--wait" in said
    for run, uuids in zip(runs, taken, strict=True):
        assert run.end()["plan"]["choice"]["gpus"] == uuids


def test_one_that_waits_starts_when_another_ends(machine: Machine) -> None:
    first, second = machine.launch().at_work(), machine.launch().at_work()
    (free,) = devices(machine, first)
    third = machine.launch("--wait")
    assert third.command.stderr is not None
    lines = iter(third.command.stderr.readline, "")
    waits = next(line for line in lines if line.startswith("waiting for a GPU"))
    assert first.id in waits or second.id in waits
    first.end()
    third.at_work()
    assert devices(machine, third) == [free]
    second.end()
    third.end()


def test_one_that_waits_can_be_interrupted(machine: Machine) -> None:
    for _ in range(2):
        machine.launch().at_work()
    waiting = machine.launch("--wait")
    assert waiting.command.stderr is not None
    lines = iter(waiting.command.stderr.readline, "")
    next(line for line in lines if line.startswith("waiting for a GPU"))
    waiting.command.terminate()
    out, err = waiting.command.communicate(timeout=TIMEOUT)
    assert waiting.command.returncode == 75, err
    assert f"--resume {waiting.folder}" in err
    assert out == ""


def test_a_launcher_that_is_killed_does_not_free_its_containers_gpu(machine: Machine) -> None:
    orphan = machine.launch("--gpus", nvml.uuid(0)).at_work()
    orphan.command.kill()
    orphan.command.wait()
    other = machine.launch().at_work()
    assert devices(machine, other) == [nvml.uuid(1)]
    assert orphan.id in machine.launch("--gpus", nvml.uuid(0)).refused()
    other.end()
    container = machine.engine.container_of(orphan.folder)["Id"]
    (orphan.folder / "enough").touch()
    machine.engine.client.api.wait(container)
    machine.launch("--gpus", nvml.uuid(0)).at_work().end()


def test_a_process_does_not_take_what_a_container_has(machine: Machine) -> None:
    has = machine.launch("--gpus", nvml.uuid(0)).at_work()
    has.command.kill()
    said = machine.launch("--gpus", nvml.uuid(0), engine="process").refused()
    assert f"aligntune-{has.id}-train-1" in said


def test_a_container_does_not_take_what_a_process_has(machine: Machine) -> None:
    gpu = Gpu(0, nvml.uuid(0), "NVIDIA H100", (9, 0), 1, 1)
    with choosing():
        lease = Lease.take([gpu])
        lease.sign("a-run (pid 4711)")
    with lease:
        assert "a-run (pid 4711)" in machine.launch("--gpus", nvml.uuid(0)).refused()
        other = machine.launch().at_work()
        assert devices(machine, other) == [nvml.uuid(1)]
        other.end()


def test_where_choosing_and_starting_lie_apart_the_run_takes_what_is_free_then(
    machine: Machine,
) -> None:
    gpu = Gpu(0, nvml.uuid(0), "NVIDIA H100", (9, 0), 1, 1)
    with choosing():  # the run has chosen, and wants to start
        run = machine.launch()
        until((run.folder / "run.json").exists, "the plan is written")
        planned = json.loads((run.folder / "run.json").read_text())["plan"]["choice"]["gpus"]
        lease = Lease.take([gpu])
    with lease:
        run.at_work()
        assert planned == [nvml.uuid(0)]
        assert devices(machine, run) == [nvml.uuid(1)]
        assert run.end()["plan"]["choice"]["gpus"] == [nvml.uuid(1)]
