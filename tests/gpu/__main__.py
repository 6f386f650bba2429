"""Everything that must be shown on a GPU, in one command: see README.md beside this file.

``make gpu`` runs it in the images, ``bash tests/gpu/run.sh`` on a bare machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from tests.gpu.bench import Bench
from tests.gpu.machine import NotReadyError, about, pick_stacks, require_gpu, require_room
from tests.gpu.results import MARKS, Results, Row
from tests.gpu.stacks import StepError, last_line, remove_containers

STEPS = ("facts", "matrix", "memory", "speed", "resume")
"""In order of value: each is a module of tests/gpu/steps, and runs in a process of its own."""

FAULTS = ("facts", "matrix", "checkpointing", "memory", "speed", "resume")
"""What ``--plant`` can break, so that everyone can see the kit notice it."""


def main() -> int:
    """Run the steps; 0 where all rows are good, 1 where one is wrong, 2 where nothing can run."""
    given = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the step too
    output = given.output.absolute()
    if given.step:
        return _work(given)
    try:
        steps = _steps(given.only, given.after)
        output.mkdir(parents=True, exist_ok=True)
        require_room(output, given.rehearse)
        if not given.rehearse:
            require_gpu()
        pick_stacks(given.packages, output, given.rehearse)  # before anything else: one clear line
    except (NotReadyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = Results(output / "results.json", about(given.rehearse))
    with tempfile.TemporaryDirectory(prefix="aligntune-gpu-kit-") as name:
        for step in steps:
            results.begin(step)
            began = time.monotonic()
            for row in _rows(step, given, Path(name)):
                results.add(step, row)
                spent = time.monotonic() - began
                print(
                    f"{spent:5.0f} s  {step}: {MARKS[row.verdict]:6}{row.name}: {row.says}",
                    flush=True,
                )
            results.end(step, time.monotonic() - began)
    print(f"\n{results.table()}\nwritten to {output / 'results.json'}")
    return 0 if results.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, in tiny sizes")
    parser.add_argument("--only", help=f"these steps: {', '.join(STEPS)}")
    parser.add_argument("--after", choices=STEPS, help="the steps after this one")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu-results"), help="folder for results.json and logs"
    )
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder with each backend's packages, as run.sh installs them; default: the images",
    )
    parser.add_argument("--plant", default="", choices=FAULTS, help="see that a fault turns red")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser


def _steps(only: str | None, after: str | None) -> tuple[str, ...]:
    if only:
        wanted = only.split(",")
        for name in wanted:
            if name not in STEPS:
                raise NotReadyError(f"--only {name}: the steps are {', '.join(STEPS)}")
        return tuple(step for step in STEPS if step in wanted)
    return STEPS[STEPS.index(after) + 1 :] if after else STEPS


def _limit(step: str) -> float:
    return float(import_module(f"tests.gpu.steps.{step}").LIMIT_SECONDS)


def _rows(step: str, given: argparse.Namespace, work: Path) -> Iterator[Row]:
    """What a step finds, from its own process; one that fails or is cut off is a row of its own."""
    log = given.output.absolute() / f"{step}.log"
    words = [sys.executable, "-m", "tests.gpu", "--step", step, "--work", str(work)]
    words += ["--output", str(given.output.absolute())]
    words += ["--plant", given.plant] if given.plant else []
    words += ["--rehearse"] if given.rehearse else []
    words += ["--packages", str(given.packages.absolute())] if given.packages else []
    with log.open("wb") as errors:
        process = subprocess.Popen(
            words,
            env={**os.environ, **_stand_in(work)} if given.rehearse else None,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    limit = _limit(step)
    cut_off = threading.Event()

    def cut() -> None:
        cut_off.set()
        _end(process, work)

    timer = threading.Timer(limit, cut)
    timer.start()
    try:
        assert process.stdout
        for line in process.stdout:
            yield Row(**json.loads(line))
        code = process.wait()
        if cut_off.is_set():
            yield Row.judge("the step ends", False, f"cut off after {limit:.0f} s")
        elif code:
            yield Row.judge("the step ends", False, f"code {code}: {last_line(log)}")
    finally:
        timer.cancel()
        _end(process, work)


def _stand_in(work: Path) -> dict[str, str]:
    """A GPU that is not there, for the rehearsal."""
    from tests.helpers.nvml import stand_in

    return stand_in(work)


def _end(process: subprocess.Popen[str], work: Path) -> None:
    """End a step with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    remove_containers(work)


def _work(given: argparse.Namespace) -> int:
    """One step, in the process that was started for it: a row a line on stdout."""
    rows = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    stacks = pick_stacks(given.packages, given.work, given.rehearse)
    bench = Bench(given.work, given.output / "logs", stacks, given.rehearse, given.plant)
    step = import_module(f"tests.gpu.steps.{given.step}")
    try:
        for row in step.run(bench):
            print(json.dumps(asdict(row)), file=rows, flush=True)
    except StepError as error:
        row = Row.judge("the step ends", False, str(error))
        print(json.dumps(asdict(row)), file=rows, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
