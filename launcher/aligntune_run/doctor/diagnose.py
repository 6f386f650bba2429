"""Every check on what was found, and what all of them come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aligntune import __version__
from aligntune_run.doctor.checks import engine, gpu, machine, network
from aligntune_run.doctor.checks.base import Checks
from aligntune_run.doctor.probe import Findings
from aligntune_run.doctor.run_report import past
from aligntune_run.plan import Verdict

CHECKS: Checks = {**machine.CHECKS, **engine.CHECKS, **gpu.CHECKS, **network.CHECKS}
"""Every check of the machine, in the order in which they are told."""


@dataclass(frozen=True)
class Diagnosis:
    """What the checks say.

    Attributes:
        checks: of the machine.
        run: of one run, if one was named.
    """

    checks: tuple[Verdict, ...]
    run: tuple[Verdict, ...] = ()

    @property
    def exit_code(self) -> int:
        """That of the first check that fails, else 0; how a run ended is told and not judged."""
        failing = (one for one in self.checks if not one.passed)
        return next((CHECKS[one.rule][1].exit_code for one in failing), 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "version": __version__,
            "exit_code": self.exit_code,
            "checks": [_values(one) for one in self.checks],
            "run": [_values(one) for one in self.run],
        }


def examine(found: Findings, run: Path | None = None) -> Diagnosis:
    """Put every check to what was found.

    Raises:
        OutputError: ``run`` is named and holds no run.
    """
    told = past(run, found.containers) if run is not None else ()
    return Diagnosis(checks(found), told)


def checks(found: Findings) -> tuple[Verdict, ...]:
    """What every check of the machine says. Pure."""
    return tuple(
        replace(verdict, rule=name)
        for name, (check, _) in CHECKS.items()
        for verdict in check(found)
    )


def counted(said: Sequence[Verdict]) -> str:
    """How many of them pass, warn and fail, in words."""
    levels = [one.level for one in said]
    return f"{levels.count('pass')} pass, {levels.count('warn')} warn, {levels.count('fail')} fail"


def _values(verdict: Verdict) -> dict[str, Any]:
    values = asdict(verdict)
    del values["backend"]
    return {"check": values.pop("rule"), **values}
