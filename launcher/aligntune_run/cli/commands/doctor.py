"""The command: aligntune-run doctor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import rich_click as click
from click.exceptions import Exit

from aligntune_run.cli.console import outliving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aligntune_run.doctor.diagnose import Diagnosis
    from aligntune_run.plan import Verdict

COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.option(
    "--bundle",
    metavar="FILE.tar.gz",
    type=click.Path(path_type=Path),
    help="Write an archive for a bug report, without secrets and data.",
)
@click.option("--offline", is_flag=True, help="Do not ask whether the hub is there.")
def doctor(run: Path | None, as_json: bool, bundle: Path | None, offline: bool) -> None:
    """Check everything that a run needs of this machine, and say what mends what is amiss.

    With a RUN directory: also what became of that run, why, and how to go on.
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
            print("Look through it before you send it: README.txt says what to see to", file=stream)
    raise Exit(diagnosis.exit_code)


def show(diagnosis: Diagnosis, stream: TextIO) -> None:
    """The checks for people: a table in a terminal, plain lines everywhere else."""
    from aligntune_run.doctor.diagnose import counted

    if diagnosis.run:
        _show(diagnosis.run, stream)
    _show(diagnosis.checks, stream)
    print(counted(diagnosis.checks), file=stream)


def _show(said: Sequence[Verdict], stream: TextIO) -> None:
    if not stream.isatty():
        for one in said:
            print(f"{one.level}  {one.rule}: {one.evidence}", file=stream)
            if one.remedy and one.level != "pass":
                print(f"      {one.remedy}", file=stream)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for one in said:
        words = Text(one.evidence)
        if one.remedy and one.level != "pass":
            words.append(f"\n{one.remedy}", "bold")
        table.add_row(Text(one.level, COLOURS[one.level]), Text(one.rule, "dim"), words)
    Console(file=stream, highlight=False).print(table)
