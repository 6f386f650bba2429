"""Print the losses of a run as a small table: ``python losses.py RUN_DIRECTORY``.

It reads ``events.jsonl``, which any program can read to follow a run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

WIDTH = 40


def main() -> None:
    lines = (Path(sys.argv[1]) / "events.jsonl").read_text(encoding="utf-8").splitlines()
    table: dict[int, tuple[float, float]] = {}
    recent: list[float] = []
    first = None
    for event in map(json.loads, lines):
        if event["event"] == "step" and "loss" in event:
            first = first or event["loss"]
            recent.append(event["loss"])
        elif event["event"] == "evaluate" and recent:
            table[event["step"]] = (fmean(recent), event["loss"])
            recent = []
    assert first is not None, "a run logs its first step"

    print(f"{'step':>6}{'training':>10}{'held out':>10}")
    print(f"{1:6}{first:10.3f}{'':10}  {'#' * WIDTH}")
    for step, (training, held_out) in table.items():
        bar = "#" * round(WIDTH * training / first)
        print(f"{step:6}{training:10.3f}{held_out:10.3f}  {bar}")


if __name__ == "__main__":
    main()
