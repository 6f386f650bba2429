"""The ``status`` command: which backends are available here."""

from __future__ import annotations

import sys

import rich_click as click

from aligntune_run.cli.console import outliving
from aligntune_run.cli.options import HELP_OPTION, json_option


@click.command()
@json_option("the backends, GPUs, driver and engine")
@HELP_OPTION
def status(as_json: bool) -> None:
    """Show which backends are available here, and why one is not.

    \b
    Examples:
    $ aligntune-run status
    $ aligntune-run status --json
    """
    from aligntune_run.cli import output
    from aligntune_run.selection.availability import look

    with outliving(sys.stdout):
        output.status(look(), as_json)
