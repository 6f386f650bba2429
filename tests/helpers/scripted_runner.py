"""A runner that remembers what it is asked, and answers from a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligntune.api.runner import BackendStatus, Selection
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import RunRecord
from aligntune.spec.resolve import Settings
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Task


class Scripted:
    """A runner that remembers what it was asked, and leaves what a worker would."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def plan(self, settings: Settings) -> dict[str, Any]:
        choice = {"backend": "trl", "reason": "it is here", "warnings": [], "verdicts": []}
        plan = {"run_dir": "/runs/r", "choice": choice}
        return {"spec": settings.spec.model_dump(), "plan": plan, "commands": []}

    def train(self, settings: Settings) -> RunRecord:
        self.asked.append("train")
        path = Path(settings.spec.output or "run").absolute()
        RunDir(path).create("id", settings.spec)
        (path / "model").mkdir()
        (path / "model" / "config.json").write_text("{}")
        result = {"steps": 3, "backend": "trl", "final_loss": 1.0, "eval_loss": 2.0}
        return RunDir(path).update(status="finished", result=result)

    def resume(self, run: Path) -> RunRecord:
        self.asked.append(("resume", run))
        return RunDir(run).update(status="finished", result={"steps": 3, "backend": "trl"})

    def do(self, task: Task) -> RunRecord:
        self.asked.append(task)
        results: dict[str, Any] = {
            "evaluate": {"metrics": {"loss": 2.0}, "samples": [], "rows": 4, "source": "d"},
            "predict": {"predictions": [{"prompt": "p", "chat": False, "text": "t"}]},
            "push": {"repository": "a/b", "url": "u", "commit": "c"},
        }
        return RunRecord(run_dir=f"{task.of}/x", result=results[task.kind])

    def status(self) -> dict[str, BackendStatus]:
        raise NotImplementedError

    def select(self, spec: RunSpec, model: bool) -> Selection:
        self.asked.append((spec, model))
        return {"backend": "trl", "reason": "", "warnings": [], "verdicts": []}
