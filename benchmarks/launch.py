"""Measure the launcher's overhead, in medians of interleaved runs.

    python benchmarks/launch.py [--runs 7]

Measures `aligntune-run --help`, `status`, `explain`, `--dry-run`, and the time from the command to
the worker's first event and to the first training step, against the same worker started by a bare
`docker run` (same image, spec, model and data). The program in between is the same, so
both differences are the launcher's overhead; the first varies less. It needs a container engine
with the trl image (built if missing).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Times: TypeAlias = tuple[float, float]
"""Seconds to a worker's first event, and to its first training step."""

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = [shutil.which("aligntune-run") or str(Path(sys.executable).with_name("aligntune-run"))]


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="runs of each")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = prepare(folder)
        show("--help", [seconds([*PROGRAM, "--help"]) for _ in range(runs)])
        show("status", [seconds([*PROGRAM, "status"]) for _ in range(runs)])
        show("explain", [seconds([*PROGRAM, "explain", *words]) for _ in range(runs)])
        show("--dry-run", [seconds([*PROGRAM, *words, "--dry-run"]) for _ in range(runs)])
        plan = dry_run(words)
        launched, bare = interleave(
            runs, lambda: times_launched(words), lambda: times_bare(plan, folder)
        )
        for place, what in enumerate(("first event", "first step")):
            ours, theirs = ([times[place] for times in each] for each in (launched, bare))
            show(f"command to {what}, aligntune-run", ours)
            show(f"command to {what}, docker run", theirs)
            show("difference, pair by pair", [a - b for a, b in zip(ours, theirs, strict=True)])


def prepare(folder: Path) -> list[str]:
    """Make a tiny model and data in ``folder``; return the arguments of a four-step run on them."""
    make_models = ["exec", "--backend", "trl", "--yes", "--mount", str(folder)]
    script = [str(REPOSITORY / "tests" / "helpers" / "tiny.py"), str(folder / "models"), "llama"]
    subprocess.run([*PROGRAM, *make_models, "--", "python", *script], check=True, cwd=REPOSITORY)
    rows = [{"prompt": f"{n} plus {n} is ", "completion": str(2 * n)} for n in range(64)]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = ["--model", str(folder / "models" / "llama"), "--dataset", str(data)]
    return ["--algo", "sft", *named, "--max-steps", "4"]


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of a process."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def dry_run(words: list[str]) -> dict[str, Any]:
    """The plan of a run."""
    command = [*PROGRAM, *words, "--dry-run", "--json"]
    planned = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(planned.stdout))


def interleave(
    runs: int, first: Callable[[], Times], second: Callable[[], Times]
) -> tuple[list[Times], list[Times]]:
    """Measure two things in turn, after a warm-up of each, so that drift affects both."""
    first()
    second()
    pairs = [(first(), second()) for _ in range(runs)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def times_launched(words: list[str]) -> Times:
    """Seconds from `aligntune-run` to the worker's first event and first step."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        began = time.time()
        launch = [*PROGRAM, *words, "--output", str(run)]
        subprocess.run(launch, check=True, stdout=subprocess.DEVNULL)
        return since(began, run)


def times_bare(plan: dict[str, Any], folder: Path) -> Times:
    """The same for a bare `docker run` of the same worker."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        spec = {**plan["spec"], "output": None}
        (run / "spec.yaml").write_text(json.dumps(spec))  # JSON is YAML
        mounts = ["-v", f"{folder}:/in{folder}:ro", "-v", f"{run}:/run-dir"]
        image = plan["plan"]["choice"]["image"]["ref"]
        user = ["-u", f"{os.getuid()}:{os.getgid()}"]
        worker = ["--spec", "/run-dir/spec.yaml"]
        began = time.time()
        subprocess.run(
            ["docker", "run", "--rm", "--network", "none", *user, *mounts, image, *worker],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return since(began, run)


def since(began: float, run: Path) -> Times:
    """Seconds until the first event, and until the end of the first step."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    step = next(event for event in events if event["event"] == "step")
    return events[0]["time"] - began, step["time"] - began


def show(name: str, values: list[float]) -> None:
    """Print one line: the median and the range."""
    print(
        f"{name:45} {statistics.median(values):7.3f} s"
        f"  ({min(values):.3f} to {max(values):.3f}, {len(values)} runs)",
        flush=True,
    )


if __name__ == "__main__":
    main()
