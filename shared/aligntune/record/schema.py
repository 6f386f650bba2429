"""RunRecord: what ``run.json`` holds. Everything that reads a record reads this.

The launcher writes ``id``, ``status``, ``run_dir``, ``created``, ``spec``, ``plan``, ``task``,
``parent``, ``handle`` and ``phase`` before a worker starts, and ``exit`` after it has ended. The
worker writes the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from aligntune.errors import OutputError

SCHEMA_VERSION = 1
"""Raised when an older reader would misread a record. Records without a version are older than 1
and are read as 1: versions only added keys so far."""

DAMAGED = "Use another run directory; to run its spec again: aligntune-run -c RUN_DIR/spec.yaml"

Status = Literal["planned", "running", "finished", "failed", "stopped"]


class Part(BaseModel):
    """A part of a record. Keys that this version does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class ChoiceRecord(Part):
    """What was chosen for a run, as far as later commands reuse it.

    Attributes:
        gpus: UUIDs; empty if the run trains on the CPU.
    """

    backend: str | None = None
    engine: str | None = None
    lock_hash: str | None = None
    gpus: list[str] | None = None


class PlanRecord(Part):
    """The launcher's plan, without what the record holds beside it; see :mod:`aligntune_run.plan`.

    Attributes:
        attempt: 1 for a new run; each resume adds 1.
    """

    attempt: int = 1
    choice: ChoiceRecord = ChoiceRecord()


class ErrorRecord(Part):
    """Why a run failed or stopped; ``kind`` is the name of a class in :mod:`aligntune.errors`."""

    kind: str = ""
    what: str = ""
    remedy: str = ""


class ExitRecord(Part):
    """How the worker ended; ``oom`` if the kernel or the engine killed it for lack of memory."""

    code: int
    oom: bool = False


class ParentRecord(Part):
    """The run whose model a run trains further.

    Attributes:
        id: None if its worker was started by hand.
        base: the model that the first run of the line began with, as its spec names it.
    """

    id: str | None = None
    run_dir: str = ""
    algorithm: str = ""
    base: str = ""

    @property
    def short_id(self) -> str:
        """The end of its id, as in the names of runs."""
        return (self.id or Path(self.run_dir).name).rpartition("-")[2]


class RunRecord(Part):
    """The record of a run or a task. A directory without ``run.json`` has an empty record.

    Attributes:
        id: None if the worker was started by hand.
        created: ISO 8601, with the UTC offset.
        spec: the resolved spec.
        plan: None if no launcher planned the run.
        task: what is done with a finished run; None for a training.
        parent: the run whose model this one trains further; None if there is none.
        handle: where the worker of the current phase runs, for
            :meth:`~aligntune_run.engines.base.Engine.attach`.
        phase: the phase that ``handle`` is of.
        code: hashes of the worker's code that worked on the run, the newest last.
        fetched: commit and path of everything that was fetched from a hub.
        recipe: what the run trains with, see :mod:`aligntune.record.recipe`; empty before training.
        inputs: fingerprints of what was read.
        machine: what the worker computed on.
        result: the figures of the training or the task.
        error: why the run failed or stopped; None if it did not.
        exit: None until the worker has ended.
    """

    schema_version: int = SCHEMA_VERSION
    id: str | None = None
    status: Status | None = None
    run_dir: str | None = None
    created: str | None = None
    origins: dict[str, str] = {}
    spec: dict[str, Any] = {}
    plan: PlanRecord | None = None
    task: dict[str, Any] | None = None
    parent: ParentRecord | None = None
    handle: str | None = None
    phase: str | None = None
    code: list[str] = []
    fetched: dict[str, Any] | None = None
    recipe: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    result: dict[str, Any] = {}
    error: ErrorRecord | None = None
    exit: ExitRecord | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no ``run.json``."""
        return not self.model_fields_set

    @property
    def is_finished(self) -> bool:
        return self.status == "finished"

    @property
    def choice(self) -> ChoiceRecord:
        """What was chosen for the run; empty if no launcher planned it."""
        return self.plan.choice if self.plan else ChoiceRecord()

    @classmethod
    def from_dict(cls, values: Any, file: Path) -> Self:
        """The record in a file's values.

        Raises:
            OutputError: a newer version wrote it, or it is not a record.
        """
        if not isinstance(values, dict):
            raise OutputError(f"{file} is not a run's record", DAMAGED)
        version = values.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise OutputError(
                f"{file} has schema version {version}, and this version of aligntune-run reads "
                f"up to {SCHEMA_VERSION}",
                "Update aligntune-run",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise OutputError(
                f"{file} is not a run's record: {key}: {first['msg']}", DAMAGED
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """What was written, and no defaults."""
        return self.model_dump(exclude_unset=True)

    def updated(self, values: dict[str, Any]) -> Self:
        """The record with other values of some keys, in this version's schema.

        Raises:
            TypeError: a record has no such key.
            ValidationError: a value is of the wrong type.
        """
        if unknown := values.keys() - type(self).model_fields.keys():
            raise TypeError(f"a record has no {', '.join(sorted(unknown))}")
        merged = {"schema_version": SCHEMA_VERSION, **self.to_dict(), **values}
        return self.model_validate({**merged, "schema_version": SCHEMA_VERSION})
