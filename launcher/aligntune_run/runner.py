"""The launcher as the Python API's runner: what the command does, for a program or a notebook."""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from aligntune.algorithms import ALGORITHMS, BACKENDS
from aligntune.core.runner import BackendStatus, Selection
from aligntune.errors import AligntuneError
from aligntune.rundir import Record
from aligntune.settings import Settings
from aligntune.spec import RunSpec
from aligntune.tasks import Task
from aligntune_run import images, jobs, leases, report, run
from aligntune_run.choose import Situation, choose_engine, choose_gpus, choose_image, judge
from aligntune_run.choose import require_supported as require_platform
from aligntune_run.engines.connect import connect
from aligntune_run.engines.facts import probe_engine
from aligntune_run.host import probe
from aligntune_run.run import Obtaining, Prepared
from aligntune_run.terminal import agree, carry_out

OF_THE_MACHINE = ("gpu", "driver", "capability", "image")
"""Rules that look at the machine alone, whatever is asked for."""


class HostRunner:
    """Runs in the chosen image, or in a venv where there is no engine.

    Progress is printed as by the command. Warnings stand there too, and are Python warnings.
    """

    def plan(self, settings: Settings) -> Record:
        """See :class:`~aligntune.core.runner.Runner`."""
        return report.values(run.prepare(settings, _obtaining()))

    def train(self, settings: Settings) -> Record:
        """See :class:`~aligntune.core.runner.Runner`."""
        return _carry_out(run.prepare(settings, _obtaining()))

    def resume(self, run_dir: Path) -> Record:
        """See :class:`~aligntune.core.runner.Runner`."""
        return _carry_out(run.prepare_resume(run_dir, _obtaining()))

    def do(self, task: Task) -> Record:
        """See :class:`~aligntune.core.runner.Runner`."""
        return _carry_out(jobs.prepare(task, _obtaining()))

    def status(self) -> dict[str, BackendStatus]:
        """See :class:`~aligntune.core.runner.Runner`."""
        client, reason = connect()
        found = images.states(client, "missing")
        host = leases.marked(probe(probe_engine(client, reason), found), client)
        anything = RunSpec.model_validate(
            {"algorithm": next(iter(ALGORITHMS)), "model": {"name": "m"}, "dataset": {"name": "d"}}
        )
        try:
            require_platform(host)
            engine = choose_engine("auto", None, host)
            gpus = choose_gpus("auto", host, engine)
        except AligntuneError as error:
            return {
                name: {"available": False, "reason": str(error), "verdicts": []}
                for name in BACKENDS
            }
        facts = images.facts()
        told: dict[str, BackendStatus] = {}
        for name in BACKENDS:
            image = choose_image(host, name, gpus)
            at = Situation(anything, host, None, name, facts[name], image, gpus, engine)
            said = [one for one in judge(at) if one.rule in OF_THE_MACHINE]
            missed = next((one for one in said if not one.passed), None)
            evidence = missed.evidence if missed else said[-1].evidence
            told[name] = {
                "available": missed is None,
                "reason": evidence,
                "verdicts": [asdict(one) for one in said],
            }
        return told

    def select(self, spec: RunSpec, model: bool) -> Selection:
        """See :class:`~aligntune.core.runner.Runner`."""
        choice = run.decide(spec, _obtaining(), spec.model.name if model else None).choice
        return {
            "backend": choice.backend,
            "reason": choice.reason,
            "warnings": list(choice.warnings),
            "verdicts": [asdict(one) for one in choice.verdicts],
        }


def _obtaining() -> Obtaining:
    return Obtaining(agree=agree)


def _carry_out(prepared: Prepared) -> Record:
    for message in prepared.plan.choice.warnings:
        warnings.warn(message, stacklevel=4)
    return carry_out(prepared, sys.stdout)
