"""All checks on the findings, and their combined result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aligntune import __version__
from aligntune.algorithms import BACKENDS
from aligntune_run.check import Verdict
from aligntune_run.doctor.checks import MACHINE
from aligntune_run.doctor.probe import Findings
from aligntune_run.doctor.run_report import report_run
from aligntune_run.host.types import Gpu
from aligntune_run.selection.select import bare_request, judge_machine, situate


@dataclass(frozen=True)
class Diagnosis:
    """The verdicts of the checks.

    Attributes:
        checks: verdicts about the machine.
        run: verdicts about one run, if one was named.
    """

    checks: tuple[Verdict, ...]
    run: tuple[Verdict, ...] = ()

    @property
    def exit_code(self) -> int:
        """The code of the first failing check, or 0. How a run ended does not count."""
        errors = (verdict.error for verdict in self.checks)
        return next((error.exit_code for error in errors if error), 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "version": __version__,
            "exit_code": self.exit_code,
            "checks": [_values(verdict) for verdict in self.checks],
            "run": [_values(verdict) for verdict in self.run],
        }


def examine(found: Findings, run: Path | None = None) -> Diagnosis:
    """Run every check on the findings.

    Raises:
        OutputError: ``run`` is not a run directory.
    """
    report = report_run(run, found.containers) if run is not None else ()
    return Diagnosis(checks(found), report)


def checks(found: Findings) -> tuple[Verdict, ...]:
    """The verdicts of the rules about the machine, then those of doctor's own checks. Pure."""
    rules = [verdict for verdict in judge_rules(found) if verdict.rule not in MACHINE.checks]
    return (*rules, *MACHINE.judge(found))


def judge_rules(found: Findings) -> tuple[Verdict, ...]:
    """What the rules say of this machine, on each of its GPUs, whatever is requested.

    A backend that cannot run here is a warning if the other one can.
    """
    spec, host = bare_request(), found.host
    options: list[tuple[Gpu, ...]] = [(one,) for one in host.gpus]
    judged: list[Verdict] = []
    for gpus in options or [()]:
        verdicts = judge_machine(situate(spec, host, gpus), found.facts)
        failing = {verdict.backend for verdict in verdicts if not verdict.passed}
        for verdict in verdicts:
            if not verdict.passed and verdict.backend and not failing.issuperset(BACKENDS):
                verdict = replace(verdict, level="warn", kind="")
            judged.append(verdict)
    return tuple(dict.fromkeys(judged))


def count_levels(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts pass, warn and fail, as text."""
    levels = [verdict.level for verdict in verdicts]
    return f"{levels.count('pass')} pass, {levels.count('warn')} warn, {levels.count('fail')} fail"


def _values(verdict: Verdict) -> dict[str, Any]:
    values = asdict(verdict)
    return {"check": values.pop("rule"), **values}
