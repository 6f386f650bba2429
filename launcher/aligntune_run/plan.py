"""Plan: everything that will be done, as plain data; ``--dry-run`` prints it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from aligntune.errors import OutputError
from aligntune.record.schema import RunRecord
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.tasks import Task, repositories
from aligntune_run.check import Verdict
from aligntune_run.memory.estimate import Estimate

Phase = Literal["fetch", "train", "evaluate", "predict", "push"]
"""What one container or process does."""

ONLINE: tuple[Phase, ...] = ("fetch", "push")
"""Phases that get the network and the hub token, and no GPU."""


@dataclass(frozen=True)
class Image:
    """The image of a run.

    Attributes:
        id: its digest; None until it has been obtained.
        code_hash: of the code that is mounted over the image's own; None until that is laid out,
            and for the user's own image.
    """

    ref: str
    id: str | None
    how: Literal["present", "pull", "build"]
    lock_hash: str
    code_hash: str | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        engine: a name in :data:`aligntune_run.engines.registry.ENGINES`.
        reason: one line for the user: the choice and the rule that decided.
        warnings: what the user must not miss, such as a requested backend that is unavailable.
        gpus: UUIDs of the GPUs that training gets; empty to train on the CPU.
        image: None for the process engine, which makes a venv from the image's lock instead.
        rule: the rule that decided; empty if no rule failed.
        estimate: of the memory that training takes; None if it is unknown.
    """

    backend: str
    flavour: str
    engine: str
    image: Image | None
    lock_hash: str
    gpus: tuple[str, ...]
    reason: str
    warnings: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    rule: str = ""
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Plan:
    """One run: everything that was decided about it.

    Attributes:
        origins: dotted key -> where its value came from; defaults are not listed.
        memory: the container's limit in bytes.
        fetch: hub ids that are fetched before training, as ``model gpt2`` or ``dataset a/b``.
        attempt: 1 for a new run; each resume adds 1.
        task: what is done with a finished run; None to train.
        inputs: local files and folders that are read besides those of the spec.
        fetched: what was fetched for the run that a task belongs to, and its paths.
    """

    run_id: str
    run_dir: str
    spec: RunSpec
    origins: dict[str, str]
    choice: Choice
    memory: int
    fetch: tuple[str, ...]
    attempt: int = 1
    task: Task | None = None
    inputs: tuple[str, ...] = ()
    fetched: dict[str, Any] | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases, in order."""
        last: Phase = self.task.kind if self.task else "train"
        return ("fetch", last) if self.fetch else (last,)

    @property
    def local_inputs(self) -> tuple[str, ...]:
        """Local files and folders that are read, by absolute path."""
        if self.task is None:
            return self.spec.local_inputs
        named = [name for _, name, _ in repositories(self.spec, self.task) if is_local(name)]
        if self.task.kind == "evaluate":
            named += [reward.file for reward in self.spec.rewards if reward.file]
        return tuple(dict.fromkeys([*named, *self.inputs]))

    @property
    def next_step(self) -> str:
        """What the user can do after it was stopped."""
        return "Try again" if self.task else f"Resume with: aligntune-run --resume {self.run_dir}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what a record holds beside the plan: spec, task and ``fetched``."""
        names = ("run_id", "run_dir", "attempt", "memory", "fetch", "inputs")
        values = {name: getattr(self, name) for name in names}
        return {**values, "origins": self.origins, "choice": asdict(self.choice)}

    @staticmethod
    def from_record(record: RunRecord) -> Plan:
        """The plan that a run was started with.

        Raises:
            OutputError: the record holds no whole plan, as if the worker was started by hand.
        """
        values = {
            **(record.plan.model_dump() if record.plan else {}),
            "spec": record.spec,
            "task": record.task,
            "fetched": record.fetched if record.task else None,
        }
        try:
            return _adapter().validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise OutputError(
                f"the record of {record.run_dir} holds no plan: {key}: {first['msg']}"
            ) from error


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def hub_ids(spec: RunSpec, task: Task | None = None) -> tuple[str, ...]:
    """What a run or a task needs from a hub, as ``model gpt2`` or ``dataset a/b``."""
    read = repositories(spec, task)
    wanted = (f"{kind} {name}" for kind, name, _ in read if not is_local(name))
    return tuple(dict.fromkeys(wanted))
