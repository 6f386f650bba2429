"""Carrying out a plan while showing its progress, and asking the user to agree."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import rich_click as click

if TYPE_CHECKING:
    from aligntune.record.events import Event
    from aligntune.record.schema import RunRecord
    from aligntune_run.planning.planner import Prepared


def carry_out(prepared: Prepared, stream: TextIO) -> RunRecord:
    """Carry out a plan to its end, even if our output can no longer be written.

    Args:
        prepared: the plan.
        stream: where to show progress; warnings go to stderr.

    Returns:
        The record of the run.
    """
    from aligntune_run.cli import output
    from aligntune_run.cli.progress import obtaining, progress
    from aligntune_run.runs import execute

    with outliving(stream, OSError):
        output.choice(prepared, stream)
    with obtaining(stream) as say:

        def print_line(line: str) -> None:
            with outliving(stream, OSError):
                say(line)

        prepared = execute.obtain(prepared, print_line)
    with progress(stream) as watch:

        def show(event: Event) -> None:
            with outliving(stream, OSError):
                watch(event)

        return execute.execute(prepared, show)


def agree(question: str) -> bool:
    """Ask in a terminal; elsewhere, nobody can answer, so print what is about to happen."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        return click.confirm(question, default=True, err=True)
    click.echo(question.removesuffix(" Go on?"), err=True)
    return True


@contextmanager
def outliving(stream: TextIO, failure: type[OSError] = BrokenPipeError) -> Iterator[None]:
    """Stop writing to a stream, without an error, once its reader has left.

    With ``OSError``, this applies to every failure of the stream, such as a log on a full disk.
    """
    try:
        yield
        stream.flush()
    except failure:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Discard everything written to a stream from now on, and what is in its buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
