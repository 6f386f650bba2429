"""The ``explain`` command: what would run, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from aligntune_run.cli.console import outliving
from aligntune_run.cli.options import FIND_LINKS, HELP_OPTION, json_option, settings, spec_flags


@click.command()
@spec_flags
@FIND_LINKS
@json_option("the choice, verdicts and memory estimate")
@HELP_OPTION
def explain(
    config: tuple[Path, ...],
    assignments: tuple[str, ...],
    find_links: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Show what would run and why: the verdict of every rule, and whether it fits in memory.

    It takes the same options as a run. If the run would be refused, it exits with the same code.

    \b
    Examples:
    $ aligntune-run explain --algo sft --model ./model --dataset chats.jsonl
    $ aligntune-run explain -c spec.yaml --backend unsloth
    """
    from aligntune_run.cli import output
    from aligntune_run.planning.planner import Obtaining
    from aligntune_run.planning.prepare import consider

    asked = settings(config, flags, assignments)
    planner = consider(asked.spec, Obtaining(find_links))
    with outliving(sys.stdout):
        output.explanation(planner, asked, as_json)
    planner.outcome.require()
