"""Carrying out a plan in front of somebody: what is told, where to, and by whom it is agreed to."""

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
    """Do what was prepared to its end, also where our output cannot be written any more.

    Args:
        prepared: the plan.
        stream: where it is told how it goes; warnings go to stderr.

    Returns:
        the record of the run.
    """
    from aligntune_run.cli import output
    from aligntune_run.cli.progress import obtaining, progress
    from aligntune_run.runs import execute

    with outliving(stream, OSError):
        output.choice(prepared, stream)
    with obtaining(stream) as say:

        def tell(line: str) -> None:
            with outliving(stream, OSError):
                say(line)

        prepared = execute.obtain(prepared, tell)
    with progress(stream) as watch:

        def show(event: Event) -> None:
            with outliving(stream, OSError):
                watch(event)

        return execute.execute(prepared, show)


def agree(question: str) -> bool:
    """Ask in a terminal; elsewhere say what is about to happen, as nobody is there to answer."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        return click.confirm(question, default=True, err=True)
    click.echo(question.removesuffix(" Go on?"), err=True)
    return True


@contextmanager
def outliving(stream: TextIO, trouble: type[OSError] = BrokenPipeError) -> Iterator[None]:
    """What is told here on a stream is told no more once its reader has left; that is no error.

    With ``OSError`` for trouble that is so whatever ails the stream, as a log on a full disk.
    """
    try:
        yield
        stream.flush()
    except trouble:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Send what is still written nowhere, what is in the stream's buffer included."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
