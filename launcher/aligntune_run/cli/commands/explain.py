"""The command that says what would run and why: explain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from aligntune_run.cli.console import outliving
from aligntune_run.cli.options import settings, spec_flags


@click.command()
@spec_flags
@click.option("--find-links", multiple=True, help="Folder or page with wheels, for a first build.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(
    config: tuple[Path, ...],
    assignments: tuple[str, ...],
    find_links: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Say what would run and why: every rule with its verdict, and whether it fits in memory.

    Takes what a run takes. Ends with the code that the run would be refused with, else with 0.
    """
    from aligntune_run.cli import output
    from aligntune_run.planning.planner import Obtaining
    from aligntune_run.planning.prepare import consider

    planner = consider(settings(config, flags, assignments).spec, Obtaining(find_links))
    with outliving(sys.stdout):
        output.explanation(planner, as_json)
    planner.outcome.require()
