"""An engine whose phases are scripts, and a plan for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.helpers.hosts import make_host

from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.spec.layers import Layer
from aligntune.spec.resolve import resolve
from aligntune_run.engines.base import Command, Engine, Environment, Exit, WorkerStatus
from aligntune_run.engines.gpu_leases import Lease, LocalGpus, gpus_of
from aligntune_run.host.types import Host
from aligntune_run.images.recipes import Recipe
from aligntune_run.plan import Choice, Plan
from aligntune_run.planning.planner import Inspection, Planner, Prepared
from aligntune_run.selection.select import Outcome

Script = Callable[["ScriptedWorker"], Exit]


@dataclass
class ScriptedWorker:
    """Runs its script at the first look, and remembers what it was asked."""

    run: RunDir
    script: Script
    lease: Lease
    asked: tuple[str, ...] = ()

    def wait(self, seconds: float) -> Exit | None:
        return self.script(self)

    @property
    def title(self) -> str:
        return "script"

    def stop(self) -> None:
        self.asked += ("stop",)

    def kill(self) -> None:
        self.asked += ("kill",)

    def detach(self) -> None:
        self.lease.end()


@dataclass
class ScriptedEngine:
    """An engine whose phases are scripts."""

    scripts: dict[str, Script]
    gpus: LocalGpus
    lease: Lease = field(default_factory=Lease)

    def prepare(self, plan: Plan, say: Any) -> Plan:
        return plan

    def commands(self, plan: Plan) -> list[Command]:
        return [
            Command(phase, {"run_dir": plan.run_dir}, plan.run_id, gpus_of(plan, phase))  # type: ignore[arg-type]
            for phase in self.scripts
        ]

    def submit(
        self,
        command: Command,
        record: Callable[[str], None],
        tick: Callable[[], None] = lambda: None,
    ) -> str:
        handle = f"script:{command.phase}:{command.arguments['run_dir']}"
        with self.gpus.leasing(command.gpus, tick) as self.lease:
            record(handle)
            self.lease.sign(f"{command.run_id} (script)")
        return handle

    def attach(self, handle: str) -> ScriptedWorker:
        _, phase, run_dir = handle.split(":", 2)
        return ScriptedWorker(RunDir(Path(run_dir)), self.scripts[phase], self.lease)

    def environment(self, made_of: Recipe, gpus: tuple[str, ...], say: Any) -> Environment:
        raise NotImplementedError

    def status(self, handle: str) -> WorkerStatus:
        return "running"

    def stop(self, handle: str) -> None:
        raise NotImplementedError

    def logs(self, handle: str) -> str:
        return ""


class ScriptedPlanner(Planner):
    """A planner whose host, engine and choice are given."""

    def __init__(
        self,
        host: Host,
        engine: Engine,
        *,
        choose: Callable[[Host], Choice],
        look: Callable[[], Host] | None = None,
        waits: bool = False,
        outcome: Outcome | None = None,
    ) -> None:
        self.inspection = Inspection(host)
        self.waits = waits
        self.outcome = outcome or Outcome((), None, None, "", None)
        self.look = look or (lambda: host)
        self.choose = choose
        self.given = engine

    def look_again(self) -> Host:
        return self.look()

    def choose_on(self, host: Host) -> Choice:
        return self.choose(host)

    def engine(self, name: str) -> Engine:
        return self.given


def prepared(folder: Path, resumed: bool = False, **scripts: Script) -> Prepared:
    values = {"algorithm": "sft", "model": "m", "dataset": "d", "output": str(folder)}
    choice = Choice("trl", "cpu", "docker", None, "", (), "TRL", (), ())
    spec = resolve([Layer("test", values)]).spec
    plan = Plan("id", str(folder), spec, {}, choice, 2**30, ())
    plan = replace(plan, attempt=2 if resumed else 1)
    host = make_host(folder)
    engine = ScriptedEngine(scripts, LocalGpus(host))
    return Prepared(plan, ScriptedPlanner(host, engine, choose=lambda _: choice))


def finish(worker: ScriptedWorker) -> Exit:
    with EventWriter(worker.run.events) as tell:
        tell("end", status="finished", result={})
    worker.run.update(status="finished", result={"steps": 1})
    return Exit(0, False, "")
