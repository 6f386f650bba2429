"""What the steps find: rows, kept as JSON from the first one on, and shown as one table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["ok", "wrong", "left out"]

MARKS: Mapping[Verdict, str] = {"ok": "ok", "wrong": "WRONG", "left out": "-"}


@dataclass(frozen=True)
class Row:
    """One thing that was checked.

    Attributes:
        name: what was checked, unique within its step.
        verdict: ``left out`` is for what cannot be rehearsed without a GPU, and says why.
        says: the figures in words, or what went wrong.
        figures: the same as numbers, for programs.
    """

    name: str
    verdict: Verdict
    says: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def judge(cls, name: str, good: bool, says: str, **figures: Any) -> Row:
        return cls(name, "ok" if good else "wrong", says, figures)


class Results:
    """The results file: whole and valid after every row, whenever the kit is cut off.

    Steps that an earlier call left in the file stay there until they are run again.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        steps: dict[str, Any] = {}
        if path.exists():
            steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        self._kept: dict[str, Any] = {"about": dict(about), "steps": steps}

    def begin(self, step: str) -> None:
        self._kept["steps"][step] = {"status": "running", "seconds": None, "rows": []}
        self._write()

    def add(self, step: str, row: Row) -> None:
        self._kept["steps"][step]["rows"].append(asdict(row))
        self._write()

    def end(self, step: str, seconds: float) -> None:
        self._kept["steps"][step] |= {"status": "ended", "seconds": round(seconds, 1)}
        self._write()

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(step, row) of everything that is known."""
        for step, found in self._kept["steps"].items():
            for row in found["rows"]:
                yield step, row

    @property
    def good(self) -> bool:
        """Whether something was checked and nothing was wrong."""
        verdicts = [row["verdict"] for _, row in self.rows()]
        return "ok" in verdicts and "wrong" not in verdicts

    def table(self) -> str:
        """A line per row, steps in the order in which they were run."""
        lines = []
        for step, found in self._kept["steps"].items():
            spent = "" if found["seconds"] is None else f" ({found['seconds']:.0f} s)"
            lines.append(f"{step}{spent}")
            width = max((len(row["name"]) for row in found["rows"]), default=0)
            lines += [
                f"  {MARKS[row['verdict']]:6}{row['name']:{width}}  {row['says']}"
                for row in found["rows"]
            ]
        verdicts = [row["verdict"] for _, row in self.rows()]
        counts = ", ".join(f"{verdicts.count(one)} {one}" for one in MARKS)
        return "\n".join([*lines, f"GPU kit: {counts}"])

    def _write(self) -> None:
        beside = self._path.with_suffix(".part")
        beside.write_text(json.dumps(self._kept, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self._path)
