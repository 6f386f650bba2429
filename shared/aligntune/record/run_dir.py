"""The run directory: the files of a run, and the state that everything else reads.

Each file has one writer at a time. The launcher creates the folder with ``spec.yaml`` and the first
``run.json``, the worker owns all files while it runs, and the launcher adds the exit cause to
``run.json`` after the worker has ended.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligntune.errors import OutputError
from aligntune.record.schema import DAMAGED, ParentRecord, RunRecord

if TYPE_CHECKING:
    from aligntune.spec.run_spec import RunSpec

RECORD = "run.json"


class RunDir:
    """The files of one run below ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.yaml"
        self.record_file = path / RECORD
        self.events = path / "events.jsonl"
        self.log = path / "train.log"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"

    def record(self) -> RunRecord:
        """The record; an empty one if there is no ``run.json``.

        Raises:
            OutputError: ``run.json`` cannot be read, is not a record, or a newer version wrote it.
        """
        try:
            values = json.loads(self.record_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return RunRecord()
        except (OSError, ValueError) as error:
            raise OutputError(
                f"cannot read {self.record_file}: {error}",
                DAMAGED,
            ) from error
        return RunRecord.from_dict(values, self.record_file)

    def update(self, **values: Any) -> RunRecord:
        """Set fields of the record. Readers see the old record or the new one, never a half."""
        record = self.record().updated(values)
        beside = self.record_file.with_suffix(".json.part")
        text = json.dumps(record.to_dict(), indent=2, ensure_ascii=False, default=str)
        beside.write_text(f"{text}\n", "utf-8")
        os.replace(beside, self.record_file)
        return record

    def in_use(self) -> bool:
        """Whether a worker is running here: it holds a lock on the events while it runs."""
        try:
            with self.events.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # no worker has started
        return False

    def require_new(self) -> None:
        """Refuse a folder that is not empty, because nothing is ever overwritten.

        Raises:
            OutputError: the folder is a run, contains other files, or is not a folder.
        """
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise OutputError(f"{self.path} is not a folder", "Name another with --output")
        if self.record_file.exists():
            status = self.record().status or "unknown"
            raise OutputError(
                f"{self.path} already holds a run ({status})",
                "Name another folder with --output, or leave it out for a new one",
            )
        if any(self.path.iterdir()):
            raise OutputError(
                f"{self.path} is not empty", "Name an empty or a new folder with --output"
            )

    def create(self, run_id: str, spec: RunSpec, **values: Any) -> None:
        """Create the folder with its spec and the first record.

        Raises:
            OutputError: the folder is in use, or cannot be written.
        """
        with self.writing("Name another folder with --output"):
            self.path.mkdir(parents=True, exist_ok=True)
            self.require_new()
            parent = parent_of(spec)
            again = spec.model_copy(update={"output": None})
            with self.spec.open(
                "x", encoding="utf-8"
            ) as file:  # of two at the same time, only one succeeds
                file.write(again.to_yaml())
            self.update(
                id=run_id,
                status="planned",
                run_dir=str(self.path),
                created=datetime.now().astimezone().isoformat(timespec="seconds"),
                spec=spec.model_dump(mode="json"),
                **({"parent": parent.model_dump()} if parent else {}),
                **values,
            )

    @contextmanager
    def writing(self, remedy: str) -> Iterator[None]:
        """Turn write errors of the run directory into an OutputError with this remedy."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "no space left for" if full else "cannot write"
            raise OutputError(f"{what} {self.path}: {error.strerror}", remedy) from error


def finished_model(path: Path) -> Path | None:
    """The model of the run in ``path``, or None if there is no such run or model."""
    model = path / "model"
    there = os.path.isfile(path / RECORD) and os.path.isdir(model)
    return model if there else None


def parent_of(spec: RunSpec) -> ParentRecord | None:
    """The run whose model or adapter is trained further, if it is the result of a run.

    Raises:
        OutputError: that run's record cannot be read.
    """
    for name in (spec.adapter.path, spec.model.name):
        folder = Path(name or "")
        if not folder.is_absolute() or finished_model(folder.parent) != folder:
            continue
        record = RunDir(folder.parent).record()
        own = record.spec.get("model", {}).get("name", "")
        return ParentRecord(
            id=record.id,
            run_dir=str(folder.parent),
            algorithm=record.spec.get("algorithm", ""),
            base=record.parent.base if record.parent else own,
        )
    return None


def base_model(spec: RunSpec) -> str:
    """The model that a run's line of runs began with; without a parent, its own model."""
    parent = parent_of(spec)
    return (parent.base if parent else "") or spec.model.name


def new_run_id(algorithm: str, model: str, now: datetime) -> str:
    """``<date>-<algorithm>-<model>-<short id>``: sortable, readable and never the same twice."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(model).name).strip("-.")[:40] or "model"
    return f"{now:%Y%m%d-%H%M%S}-{algorithm}-{name}-{secrets.token_hex(3)}"
