"""The losses of a run as a small table: ``python losses.py RUN_DIRECTORY``.

It reads ``events.jsonl``, as anything may that wants to follow a run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WIDTH = 30


def main() -> None:
    lines = (Path(sys.argv[1]) / "events.jsonl").read_text(encoding="utf-8").splitlines()
    trained: list[float] = []
    table: dict[int, tuple[float, float]] = {}
    for event in map(json.loads, lines):
        if event["event"] == "step" and "loss" in event:
            trained.append(event["loss"])
        elif event["event"] == "evaluate" and trained:
            table[event["step"]] = (sum(trained) / len(trained), event["loss"])
            trained = []
    ...


if __name__ == "__main__":
    main()
