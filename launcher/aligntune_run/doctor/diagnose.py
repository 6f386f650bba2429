"""All checks on the findings, and their combined result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aligntune import __version__
from aligntune_run.doctor.checks import engine, gpu, machine, network
from aligntune_run.doctor.checks.base import Checks
from aligntune_run.doctor.probe import Findings
from aligntune_run.doctor.run_report import report_run
from aligntune_run.plan import Verdict

CHECKS: Checks = {**machine.CHECKS, **engine.CHECKS, **gpu.CHECKS, **network.CHECKS}
"""Every check of the machine, in the order of the report."""


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
        failures = (verdict for verdict in self.checks if not verdict.passed)
        return next((CHECKS[verdict.rule][1].exit_code for verdict in failures), 0)

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
    """The verdicts of every check of the machine. Pure."""
    return tuple(
        replace(verdict, rule=name)
        for name, (check, _) in CHECKS.items()
        for verdict in check(found)
    )


def count_levels(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts pass, warn and fail, as text."""
    levels = [verdict.level for verdict in verdicts]
    return f"{levels.count('pass')} pass, {levels.count('warn')} warn, {levels.count('fail')} fail"


def _values(verdict: Verdict) -> dict[str, Any]:
    values = asdict(verdict)
    del values["backend"]
    return {"check": values.pop("rule"), **values}
