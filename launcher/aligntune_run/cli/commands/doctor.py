"""The ``doctor`` command: check the machine, or a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import rich_click as click
from click.exceptions import Exit

from aligntune.algorithms import TITLES
from aligntune_run.cli.console import outliving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aligntune_run.check import Verdict
    from aligntune_run.doctor.diagnose import Diagnosis

COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.option(
    "--bundle",
    metavar="FILE.tar.gz",
    type=click.Path(path_type=Path),
    help="Write an archive for a bug report, without secrets or data.",
)
@click.option("--offline", is_flag=True, help="Do not try to reach the hub.")
def doctor(run: Path | None, as_json: bool, bundle: Path | None, offline: bool) -> None:
    """Check everything a run needs on this machine, and show how to fix what fails.

    With a RUN directory, it also explains how that run ended and how to resume it.

    \b
    Examples:
    $ aligntune-run doctor
    $ aligntune-run doctor runs/my-run
    $ aligntune-run doctor runs/my-run --bundle report.tar.gz
    """
    from aligntune_run.cli import output
    from aligntune_run.doctor.bundle import pack, require_new
    from aligntune_run.doctor.diagnose import examine
    from aligntune_run.doctor.probe import look

    if bundle is not None:
        require_new(bundle)
    found = look(network=not offline)
    diagnosis = examine(found, run)
    with outliving(sys.stdout):
        if as_json:
            output.json_line(diagnosis.to_dict())
        else:
            show(diagnosis, sys.stdout)
    if bundle is not None:
        members = pack(bundle, found, diagnosis, run)
        stream = sys.stderr if as_json else sys.stdout
        with outliving(stream):
            print(f"{bundle} holds:", file=stream)
            for name, size in members:
                print(f"  {size:>9,}  {name}", file=stream)
            print(
                "Check its contents before you send it; README.txt says what to look for",
                file=stream,
            )
    raise Exit(diagnosis.exit_code)


def show(diagnosis: Diagnosis, stream: TextIO) -> None:
    """Print the checks for people: a table in a terminal, plain lines elsewhere."""
    from aligntune_run.doctor.diagnose import count_levels

    if diagnosis.run:
        _show_verdicts(diagnosis.run, stream)
    _show_verdicts(diagnosis.checks, stream)
    print(count_levels(diagnosis.checks), file=stream)


def _show_verdicts(verdicts: Sequence[Verdict], stream: TextIO) -> None:
    if not stream.isatty():
        for verdict in verdicts:
            print(f"{verdict.level}  {verdict.rule}: {_evidence(verdict)}", file=stream)
            if verdict.remedy and verdict.level != "pass":
                print(f"      {verdict.remedy}", file=stream)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for verdict in verdicts:
        text = Text(_evidence(verdict))
        if verdict.remedy and verdict.level != "pass":
            text.append(f"\n{verdict.remedy}", "bold")
        table.add_row(Text(verdict.level, COLOURS[verdict.level]), Text(verdict.rule, "dim"), text)
    Console(file=stream, highlight=False).print(table)


def _evidence(verdict: Verdict) -> str:
    return f"{TITLES[verdict.backend]}: {verdict.evidence}" if verdict.backend else verdict.evidence
