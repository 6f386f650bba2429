"""Plan: everything that will be done, as plain data. What ``--dry-run`` prints is what runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from aligntune.errors import AligntuneError
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.tasks import Task, repositories
from aligntune_run.memory.estimate import Estimate

Phase = Literal["fetch", "train", "evaluate", "predict", "push"]
"""What one container or process does; fetching and pushing have the network and the token."""

ONLINE: tuple[Phase, ...] = ("fetch", "push")


@dataclass(frozen=True)
class Verdict:
    """What one rule says, and the evidence for it.

    Attributes:
        backend: the one that it is said of; empty for what holds whichever is chosen.
        level: ``warn`` is told and does not stand in the way.
        remedy: what to do about a failure or a warning.
    """

    rule: str
    backend: str
    level: Literal["pass", "warn", "fail"]
    evidence: str
    remedy: str = ""

    @property
    def passed(self) -> bool:
        return self.level != "fail"


@dataclass(frozen=True)
class Image:
    """The image that a run takes.

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
        reason: one line for the user: the choice and the rule that decided.
        warnings: what the user must not miss, such as a backend that was asked for and not had.
        gpus: UUIDs of the GPUs that training gets; empty trains on the CPU.
        image: None in the process engine, which makes a venv from the lock instead.
        rule: the one that decided; empty where none stood in the way of what was wanted most.
        estimate: of the memory that training takes; None where that is not known.
    """

    backend: str
    flavour: str
    engine: Literal["docker", "process"]
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
    """One run, decided.

    Attributes:
        origins: dotted key -> where its value came from; defaults are left out.
        memory: the container's limit in bytes.
        fetch: hub ids that are fetched before training, as ``model gpt2`` or ``dataset a/b``.
        attempt: one more each time the run is gone on with.
        task: what is done with a finished run; None trains a new one.
        inputs: further local files and folders that are read, beside those of the spec.
        fetched: what was fetched for the run that a task is of, and where to.
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
        """What is started, in order."""
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
    def again(self) -> str:
        """What the user can do where it was stopped."""
        return "Try again" if self.task else f"Go on with: aligntune-run --resume {self.run_dir}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the spec: the record and ``--json`` carry that beside the plan."""
        names = ("run_id", "run_dir", "attempt", "memory", "fetch")
        values = {name: getattr(self, name) for name in names}
        return {**values, "origins": self.origins, "choice": asdict(self.choice)}


def hub_ids(spec: RunSpec, task: Task | None = None) -> tuple[str, ...]:
    """What a run, or a task of one, needs from a hub, as ``model gpt2`` or ``dataset a/b``."""
    read = repositories(spec, task)
    wanted = (f"{kind} {name}" for kind, name, _ in read if not is_local(name))
    return tuple(dict.fromkeys(wanted))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        rule: ``model_files``, ``adapter``, ``chat_template``, ``rewards``, ``data``,
            ``evaluation_data``, ``credentials``, ``output`` or ``disk``.
        level: ``warn`` is for what may still go well.
        evidence: what was seen, in words.
        error: what a failure ends a run with; None where it is none.
    """

    rule: str
    level: Literal["pass", "warn", "fail"]
    evidence: str
    error: AligntuneError | None = None

    @property
    def verdict(self) -> Verdict:
        remedy = self.error.remedy if self.error else ""
        return Verdict(self.rule, "", self.level, self.evidence, remedy)
