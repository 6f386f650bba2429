"""Tasks on a finished run: evaluate its model, predict with it, or push it to a hub.

Each task is a small run in a folder below the finished run (``evaluations/``, ``predictions/``,
``pushes/``), with its own ``run.json`` and ``events.jsonl``, so nothing is ever overwritten.
:func:`job` combines a task with the run that it works on.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from aligntune.errors import AligntuneError, DataError, OutputError, SpecError
from aligntune.record.run_dir import RunDir, finished_model
from aligntune.record.schema import RunRecord
from aligntune.spec.layers import from_file
from aligntune.spec.paths import local_name, similar_path
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.sections import PositiveInt, Section

Conversation = list[dict[str, Any]]
Prompt = str | Conversation

TASK_FILE = "task.json"
"""The file of a task, in the folder of its small run."""

FOLDERS = {"evaluate": "evaluations", "predict": "predictions", "push": "pushes"}


class Evaluate(Section):
    """Measure a run's model on held-out rows.

    Attributes:
        of: the finished run's folder, absolute.
        dataset: rows to evaluate on, in any form that ``dataset.name`` takes; null is the run's own
            evaluation rows.
        split: split of it.
        max_samples: evaluate on this many rows, from the first.
        batch_size: rows per forward pass.
    """

    kind: Literal["evaluate"] = "evaluate"
    of: str
    dataset: str | None = None
    split: str | None = None
    max_samples: PositiveInt | None = None
    batch_size: PositiveInt | None = None


class Predict(Section):
    """Complete prompts with a run's model, or score texts with its reward model.

    Attributes:
        of: the finished run's folder, absolute.
        prompts: texts, or conversations as lists of messages.
        max_new_tokens: tokens at which a completion is cut.
        temperature: of sampling; 0 always takes the most likely token.
        seed: of sampling.
        chat: whether a text is a user's message in a conversation; null does what the training
            data did.
        batch_size: prompts per forward pass.
    """

    kind: Literal["predict"] = "predict"
    of: str
    prompts: tuple[Prompt, ...]
    max_new_tokens: PositiveInt = 256
    temperature: float = Field(default=0.0, ge=0)
    seed: int = Field(default=42, ge=0, lt=2**32)
    chat: bool | None = None
    batch_size: PositiveInt = 8

    @field_validator("prompts")
    @classmethod
    def _something_asked(cls, value: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        if not value:
            raise ValueError("there are no prompts")
        return value


class Push(Section):
    """Upload a run's ``model/`` to a repository of a hub, which is created if needed.

    Attributes:
        of: the finished run's folder, absolute.
        repository: ``name`` or ``organisation/name``.
        private: whether a new repository is private; an existing one is not changed.
        message: of the commit.
    """

    kind: Literal["push"] = "push"
    of: str
    repository: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
    private: bool = False
    message: str = "Upload a model trained with aligntune-run"


Task = Evaluate | Predict | Push

_TASKS: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])


SPEC_WORDS = re.compile(
    r"(dataset|training|adapter|trainer_args)\.|args\.column|--(set|algo|lora|load-in|max-length)"
)
"""Keys and flags of a training in a remedy; a task has none of them."""

REMEDIES = {
    ("evaluate", "DataError"): "Evaluation needs rows with the columns of the run's training data: "
    "rename the columns in the file, or name other rows with --dataset and --split",
    ("evaluate", "OutOfMemoryError"): "Lower --batch-size",
    ("predict", "OutOfMemoryError"): "Lower --max-new-tokens, or pass fewer prompts",
}
"""Task and class of an error -> what to do about it, where the remedy is one for a training."""


def fitting_remedy(task: Task, error: AligntuneError) -> str:
    """The remedy of an error in the words of a task's command."""
    instead = REMEDIES.get((task.kind, type(error).__name__))
    return instead if instead and SPEC_WORDS.search(error.remedy) else error.remedy


@dataclass(frozen=True)
class Job:
    """A task, and the run that it works on.

    Attributes:
        spec: the run's spec with the changes that the task makes.
        record: the run's record.
    """

    task: Task
    spec: RunSpec
    record: RunRecord

    def new_folder(self) -> Path:
        """A new folder for the task."""
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        return Path(self.task.of) / FOLDERS[self.task.kind] / name


def make(kind: type[Section], **values: Any) -> Task:
    """A task of a kind. Values of None are left at their default.

    Raises:
        SpecError: a value is of the wrong type or out of range.
    """
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return _TASKS.validate_python(kind.model_validate(given))
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else kind.__name__
        message, said = problem["msg"].removeprefix("Value error, "), problem["input"]
        shown = f", not {said!r}" if isinstance(said, str | int | float) else ""
        raise SpecError(f"{name.replace('_', '-')}: {message}{shown}") from None


def read(path: Path) -> Task:
    """The task in a file.

    Raises:
        SpecError: the file is not a task.
    """
    try:
        return _TASKS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise SpecError(f"{path} is not a task: {first}") from error


def read_prompts(path: Path) -> list[Any]:
    """Prompts from a file: one text per line, or one text or list of messages per line of .jsonl.

    Raises:
        DataError: the file cannot be read, or is not JSON lines.
    """
    try:
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(
            f"cannot read {path}: {reason}", "Use UTF-8 text that you may read"
        ) from error
    if path.suffix != ".jsonl":
        return lines
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON lines: {error}", "Write one JSON text or list of messages per line"
        ) from error


def job(task: Task) -> Job:
    """Combine a task with the run that it works on; changes nothing.

    Raises:
        OutputError: the folder is not a run, or the run has not finished.
        DataError: there are no rows to evaluate on.
    """
    run = RunDir(Path(task.of))
    record = run.record()
    if record.is_empty or not run.spec.exists():
        near = similar_path(str(run.path), Path.cwd())
        remedy = f"Did you mean {near}?" if near else "Name the folder of a finished run"
        raise OutputError(f"{run.path} is not a run directory", remedy)
    status = record.status or "unknown"
    if not record.is_finished or finished_model(run.path) is None:
        raise OutputError(
            f"{run.path} has not finished ({status})",
            f"Resume it first: aligntune-run --resume {run.path}",
        )
    # Names are absolute already. Later steps check whether the files are needed and exist.
    spec = resolve([from_file(run.spec)]).spec
    if isinstance(task, Evaluate) and task.dataset:
        named = local_name(task.dataset, Path.cwd(), "dataset", "eval_name", DataError)
        task = task.model_copy(update={"dataset": named})
    elif isinstance(task, Predict) and task.chat is None:
        chat = record.inputs.get("train", {}).get("chat")
        task = task.model_copy(update={"chat": chat})
    return Job(task, spec_for(spec, task), record)


def spec_for(spec: RunSpec, task: Task) -> RunSpec:
    """A run's spec with the changes that a task makes. Applying it twice changes nothing more.

    Raises:
        DataError: there are no rows to evaluate on.
    """
    # The saved tokenizer carries the template that training used.
    model = spec.model.model_copy(update={"chat_template": None})
    spec = spec.model_copy(update={"model": model, "output": None})
    if not isinstance(task, Evaluate):
        return spec
    data, training = spec.dataset, spec.training
    if task.dataset or task.split:
        changes = {"eval_split": task.split or data.eval_split, "validation_fraction": 0.0}
        changes |= {"eval_name": task.dataset, "eval_split": task.split} if task.dataset else {}
        data = data.model_copy(update=changes)
    if task.batch_size:
        training = training.model_copy(update={"batch_size": task.batch_size})
    spec = spec.model_copy(update={"dataset": data, "training": training})
    if evaluation_set(spec) is None:
        raise DataError(
            f"{task.of} was trained without evaluation rows",
            "Set --dataset, or evaluate(dataset=...)",
        )
    return spec


def evaluation_set(spec: RunSpec) -> tuple[str, str] | None:
    """The (dataset, split) that evaluation rows are read from, or None if there are none."""
    data = spec.dataset
    if data.eval_name or data.eval_split:
        # A separate set is one file or folder, read whole.
        return data.eval_name or data.name, data.eval_split or "train"
    return (data.name, data.split) if data.validation_fraction else None


def repositories(spec: RunSpec, task: Task | None) -> tuple[tuple[str, str, str | None], ...]:
    """Every model and dataset that a task reads besides the run's own model, as in
    :attr:`RunSpec.repositories`; for training (no task) all of them.
    """
    if task is None:
        return spec.repositories
    if isinstance(task, Push):
        return ()
    measured = isinstance(task, Evaluate)
    against = measured and needs_reference(spec)
    wanted = {
        "model": against or spec.adapter.type != "none",
        "adapter": against,  # training started from it, so it is the reference
        "reward": measured,
    }
    found = [entry for entry in spec.repositories if wanted.get(entry[0])]
    if measured and (rows := evaluation_set(spec)):
        own = rows[0] == spec.dataset.name
        found.append(("dataset", rows[0], spec.dataset.revision if own else None))
    return tuple(found)


def needs_reference(spec: RunSpec) -> bool:
    """Whether evaluation compares with the model that training started from."""
    return spec.row.reference
