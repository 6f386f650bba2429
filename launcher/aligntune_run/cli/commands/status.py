"""The command that says what can be had here: status."""

from __future__ import annotations

import sys

import rich_click as click

from aligntune_run.cli.console import outliving


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool) -> None:
    """Say which backends can be had here, and why not."""
    from aligntune_run.cli import output
    from aligntune_run.selection.availability import look

    with outliving(sys.stdout):
        output.status(look(), as_json)
