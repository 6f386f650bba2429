"""What every step works with: the stacks, folders, toys, and trainings by the worker itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.gpu.stacks import ROOT, Job, Stack, StepError, last_line
from tests.helpers.toys import REWARD, TOYS, rows, spec_of

from aligntune.algorithms import ALGORITHMS

INSIDE = Path(__file__).parent / "inside"
"""Programs that run in a backend's environment."""

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Bench:
    """The machine as the steps use it.

    Attributes:
        work: folder for models, data and runs, which is removed at the end.
        logs: folder for logs, which is kept.
        stacks: by backend.
        rehearsing: without a GPU, in tiny sizes.
        planted: the fault that was asked for, so that a step must turn red; empty for none.
    """

    work: Path
    logs: Path
    stacks: Mapping[str, Stack]
    rehearsing: bool
    planted: str = ""

    @property
    def jobs(self) -> int:
        """Trainings of toys at once: each keeps about one core busy, and the GPU hardly at all."""
        return max(2, len(os.sched_getaffinity(0)) * 3 // 4)

    def at_once(
        self, do: Callable[[Item], Found], items: Iterable[Item], jobs: int | None = None
    ) -> Iterator[tuple[Item, Found]]:
        """Do something with every item, several at a time, and yield as they end."""
        with ThreadPoolExecutor(jobs or self.jobs) as pool:
            started = {pool.submit(do, item): item for item in items}
            for future in as_completed(started):
                yield started[future], future.result()

    def log(self, name: str) -> Path:
        self.logs.mkdir(exist_ok=True)
        return self.logs / f"{name}.log"

    def write(self, name: str, content: Sequence[Mapping[str, Any]] | str) -> Path:
        """A file of data: rows as JSON lines, or a text as it is."""
        path = self.work / "data" / name
        path.parent.mkdir(exist_ok=True)
        lines = (
            content
            if isinstance(content, str)
            else "".join(json.dumps(row) + "\n" for row in content)
        )
        path.write_text(lines, encoding="utf-8")
        return path

    def toy_model(self) -> Path:
        """The model of tests/helpers/toys.py, made on the first call."""
        folder = self.work / "models" / "toy"
        if not (folder / "config.json").exists():
            script = ROOT / "tests" / "helpers" / "toys.py"
            self.stacks["trl"].run([script, folder, "wide"], self.log("toys"), 120)
        return folder

    def toy_spec(self, algorithm: str, adapter: bool, **training: Any) -> dict[str, Any]:
        """The whole spec of an algorithm's toy; ``training`` in place of its own values."""
        data = TOYS[ALGORITHMS[algorithm].family].data
        for part, made in zip(("train", "held-out"), rows(data), strict=True):
            if not (path := self.work / "data" / f"{data}-{part}.jsonl").exists():
                self.write(path.name, made)
        spec = {
            **spec_of(algorithm, adapter, **training),
            "model": {"name": str(self.toy_model())},
            "dataset": {
                "name": str(self.work / "data" / f"{data}-train.jsonl"),
                "eval_name": str(self.work / "data" / f"{data}-held-out.jsonl"),
            },
        }
        if ALGORITHMS[algorithm].online:
            spec["rewards"] = [f"{self.write('good.py', REWARD)}:good"]
        return spec

    def start(
        self,
        backend: str,
        spec: Mapping[str, Any],
        name: str,
        variables: Mapping[str, str] | None = None,
    ) -> Run:
        """Start a training by the worker; one that has a run of that name is resumed."""
        folder = self.work / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.yaml").write_text(json.dumps(spec), encoding="utf-8")
        stack = self.stacks[backend]
        # Each its own: Unsloth writes its trainers there, which runs at the same time would mix.
        compiled = {"UNSLOTH_COMPILE_LOCATION": str(folder / "unsloth_compiled_cache")}
        words = [*stack.worker, "--spec", folder / "spec.yaml"]
        log = self.log(name)
        return Run(folder, stack.start(words, log, {**compiled, **(variables or {})}))

    def train(self, backend: str, spec: Mapping[str, Any], name: str, limit: float) -> Run:
        """Train to the end, or for ``limit`` seconds."""
        run = self.start(backend, spec, name)
        if run.job.wait(limit) and (log := run.folder / "train.log").exists():
            shutil.copy(log, self.log(f"{name}.train"))
        return run


@dataclass(frozen=True)
class Run:
    """A training by the worker."""

    folder: Path
    job: Job

    @property
    def record(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    @property
    def result(self) -> dict[str, Any]:
        """What the worker recorded.

        Raises:
            StepError: it did not finish; the message has the worker's own words.
        """
        record = self.record
        if self.job.process.returncode != 0 or record.get("status") != "finished":
            raise StepError(f"{self.folder.name}: {self.failure}")
        return dict(record["result"])

    @property
    def failure(self) -> str:
        """Why it did not finish, in one line."""
        for event in reversed(self.events):
            if event["event"] == "error":
                return f"{event['what']} ({self.folder})"
        code = self.job.process.returncode
        if code == -signal.SIGKILL:
            return f"it took longer than its limit, or was killed ({self.folder})"
        log = self.folder / "train.log"
        said = last_line(log if log.exists() and log.stat().st_size else self.job.log)
        return f"the worker ended with code {code}: {said}"

    @property
    def events(self) -> list[dict[str, Any]]:
        try:
            lines = (self.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        return [json.loads(line) for line in lines if line.endswith("}")]

    @property
    def losses(self) -> dict[int, float]:
        """Training loss by step; of a step that was trained twice, the last."""
        steps = (event for event in self.events if event["event"] == "step")
        return {event["step"]: event["loss"] for event in steps if "loss" in event}
