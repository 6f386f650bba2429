"""A run that is stopped or killed and resumed against one that is not, and the same run twice."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.gpu.bench import INSIDE, Bench, Run
from tests.gpu.results import Row
from tests.gpu.stacks import StepError

from aligntune.errors import StoppedError

LIMIT_SECONDS = 150
RUN_SECONDS = 90

STEPS, SAVE, BROKEN_AT = 400, 25, 60
"""Of each run, between its checkpoints, and from which step on it is broken off."""


@dataclass(frozen=True)
class Kind:
    """One of the runs that are compared.

    Attributes:
        broken: the signal that breaks it off before it is resumed; None for a run of one piece.
        settings: trainer arguments beside the toy's.
    """

    backend: str
    name: str
    broken: signal.Signals | None = None
    deterministic: bool = False

    @property
    def folder(self) -> str:
        return f"resume-{self.backend}-{self.name}"


def kinds(backend: str, rehearsing: bool) -> list[Kind]:
    """The runs of a backend."""
    found = [
        Kind(backend, "whole"),
        Kind(backend, "stopped", signal.SIGTERM),
        Kind(backend, "killed", signal.SIGKILL),
    ]
    if rehearsing:
        return found
    again = [Kind(backend, "again")]
    fixed = [Kind(backend, f"deterministic-{name}", deterministic=True) for name in ("one", "two")]
    return [*found, *again, *fixed]


def run(bench: Bench) -> Iterator[Row]:
    """A row a comparison."""
    backends = ("trl",) if bench.rehearsing else ("trl", "unsloth")
    wanted = [kind for backend in backends for kind in kinds(backend, bench.rehearsing)]
    for kind in wanted:  # before several threads write the same data
        _spec(bench, kind)
    ended: dict[str, dict[str, Run]] = {backend: {} for backend in backends}
    for kind, run in bench.at_once(lambda kind: _train(bench, kind), wanted):
        if isinstance(run, StepError):
            yield Row.judge(f"{kind.backend}, {kind.name}", False, str(run))
        else:
            ended[kind.backend][kind.name] = run
    for backend in backends:
        yield from _compare(bench, ended[backend], backend)
    if bench.rehearsing:
        yield Row("resume on Unsloth", "left out", "the emulated GPU path takes too long")
        yield Row("the same run twice", "left out", "a CPU is deterministic; a GPU need not be")


def _spec(bench: Bench, kind: Kind) -> dict[str, Any]:
    steps, save = (40, 5) if bench.rehearsing else (STEPS, SAVE)
    spec = bench.toy_spec("sft", False, max_steps=steps, save_steps=save, logging_steps=1)
    spec["training"]["save_total_limit"] = 2
    if not bench.rehearsing:
        spec["training"]["precision"] = "auto"
    if kind.deterministic:
        spec["trainer_args"] = {"full_determinism": True}
    if bench.planted == "resume" and kind.name == "stopped":
        spec["training"]["seed"] = 7
    return spec


def _train(bench: Bench, kind: Kind) -> Run | StepError:
    """The finished run, or why it did not finish as it should."""
    try:
        run = _trained(bench, kind)
        run.result  # noqa: B018 - raises where it did not finish
    except StepError as error:
        return error
    return run


def _trained(bench: Bench, kind: Kind) -> Run:
    spec = _spec(bench, kind)
    variables = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if kind.deterministic else {}
    run = bench.start(kind.backend, spec, kind.folder, variables)
    if kind.broken is None:
        run.job.wait(RUN_SECONDS)
        return run
    _wait_for_step(run, 12 if bench.rehearsing else BROKEN_AT)
    run.job.send(kind.broken)
    code = run.job.wait(RUN_SECONDS)
    if run.record.get("status") == "finished":
        raise StepError(f"{kind.folder} was finished before it was broken off")
    if kind.broken == signal.SIGTERM and code != StoppedError.exit_code:
        raise StepError(f"{kind.folder} ended with code {code}, not {StoppedError.exit_code}")
    run = bench.start(kind.backend, spec, kind.folder, variables)
    run.job.wait(RUN_SECONDS)
    return run


def _wait_for_step(run: Run, step: int) -> None:
    until = time.monotonic() + RUN_SECONDS
    while max(run.losses, default=0) < step:
        if run.job.process.poll() is not None:
            raise StepError(f"{run.folder.name}: {run.failure}")
        if time.monotonic() > until:
            raise StepError(f"{run.folder.name} did not come to step {step}")
        time.sleep(0.02)


def _compare(bench: Bench, runs: Mapping[str, Run], backend: str) -> Iterator[Row]:
    """Each run against the uninterrupted one: losses by step, and the saved weights."""
    pairs = [("stopped", "whole"), ("killed", "whole"), ("again", "whole")]
    pairs += [("deterministic-two", "deterministic-one")]
    pairs = [pair for pair in pairs if set(pair) <= set(runs)]
    if not pairs:
        return
    weights = _weights(bench, runs, pairs, backend)
    apart = {}
    for one, other in pairs:
        losses, theirs = runs[one].losses, runs[other].losses
        steps = losses.keys() & theirs.keys()
        apart[one] = max((abs(losses[step] - theirs[step]) for step in steps), default=float("inf"))
    # What two runs differ by that nobody touched is nothing that a resume could do better.
    natural = apart.get("again", 0.0)
    for one, other in pairs:
        exact = "deterministic" in one or not natural
        good = (
            apart[one] == 0 and weights[one] == 0 if exact else apart[one] <= max(3 * natural, 1e-2)
        )
        if one == "again":
            good = True
        resumed = runs[one].result["resumed_from"]
        at = f", resumed from step {resumed}" if resumed else ""
        equal = "equal" if apart[one] == 0 and weights[one] == 0 else "not equal"
        if one in ("stopped", "killed") and not resumed:
            good, at = False, ", it was not resumed"
        yield Row.judge(
            f"{backend}, {one} and {other}",
            good,
            f"{equal}: losses {apart[one]:.1e} apart at most, weights {weights[one]:.1e}{at}",
            losses=apart[one],
            weights=weights[one],
        )


def _weights(
    bench: Bench, runs: Mapping[str, Run], pairs: list[tuple[str, str]], backend: str
) -> dict[str, float]:
    """The largest difference of the saved weights of each pair."""
    jobs = {
        one: [str(runs[one].folder / "model"), str(runs[other].folder / "model")]
        for one, other in pairs
    }
    words = [INSIDE / "compare_weights.py", json.dumps(jobs)]
    lines = bench.stacks["trl"].run(words, bench.log(f"weights-{backend}"), 60)
    return dict(json.loads(lines[-1]))
