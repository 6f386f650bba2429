"""Progress of a run: a live bar in a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from aligntune.record.events import Event, describe
from aligntune.record.events import progress as told


class PlainProgress:
    """One line for each event that is worth one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def watch(self, event: Event) -> None:
        line = describe(event)
        if line and event["event"] != "error":  # the error is the command's last word
            print(line, file=self._stream, flush=True)


class LiveProgress:
    """A bar with step, loss, tokens a second and time left; what is worth keeping scrolls above."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(file=stream, highlight=False)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self.bar.add_task("starting", total=None, numbers="")
        self._loss = ""

    def watch(self, event: Event) -> None:
        kind = event["event"]
        if kind == "phase":
            self.bar.update(self._task, description=event["name"].replace("_", " "))
        elif kind == "step":
            if "loss" in event:
                self._loss = told(event)
            speed = event.get("tokens_per_second")
            rate = f"{speed:,.0f} token/s" if speed else ""
            numbers = f"{event['step']}/{event['max_steps']}  {self._loss}  {rate}"
            self.bar.update(
                self._task, completed=event["step"], total=event["max_steps"], numbers=numbers
            )
        elif kind != "error" and (line := describe(event)):
            style = "bold yellow" if kind == "warning" else "dim"
            self.bar.console.print(line, style=style, markup=False)


@contextmanager
def obtaining(stream: TextIO) -> Iterator[Callable[[str], None]]:
    """What tells how an image or venv is made: what is done, without the build's own output.

    In a terminal the build's newest line shows that it goes on; elsewhere only our own lines stay.
    """
    if not stream.isatty():
        yield lambda line: None if _of_build(line) else print(line, file=stream, flush=True)
        return
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    with console.status("obtaining") as status:

        def say(line: str) -> None:
            if _of_build(line):
                status.update(line[: console.width - 4].replace("[", "\\["))
            else:
                console.print(line, markup=False)

        yield say


def _of_build(line: str) -> bool:
    """Whether a line is BuildKit's, which numbers its steps (``#7 ...``), or an empty one of it."""
    return line.startswith("#") or not line.strip()


@contextmanager
def progress(stream: TextIO) -> Iterator[Callable[[Event], None]]:
    """What tells events on a stream, in the way that suits it."""
    if not stream.isatty():
        yield PlainProgress(stream).watch
        return
    live = LiveProgress(stream)
    with live.bar:
        yield live.watch
