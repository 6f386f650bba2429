"""Progress of a run: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from aligntune.record.events import Event, describe
from aligntune.record.events import progress as describe_step

STYLES = {"warning": "bold yellow", "start": "none"}
"""How lasting messages are shown, by kind of event; others are dim."""


class PlainProgress:
    """Prints one line for each event worth showing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def watch(self, event: Event) -> None:
        line = describe(event)
        if line and event["event"] != "error":  # the command prints the error at the end
            print(line, file=self._stream, flush=True)


class LiveProgress:
    """A bar with step, loss, tokens per second and time left; lasting messages scroll above it."""

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
                self._loss = describe_step(event)
            speed = event.get("tokens_per_second")
            rate = f"{speed:,.0f} token/s" if speed else ""
            numbers = f"{event['step']}/{event['max_steps']}  {self._loss}  {rate}"
            self.bar.update(
                self._task, completed=event["step"], total=event["max_steps"], numbers=numbers
            )
        elif kind != "error" and (line := describe(event)):
            self.bar.console.print(line, style=STYLES.get(kind, "dim"), markup=False)


@contextmanager
def obtaining(stream: TextIO) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows how an image or venv is made, without the build's own output.

    In a terminal, the build's newest line shows progress; elsewhere, only our own lines appear. The
    live display starts with the first line, because the user may be asked something before.
    """
    if not stream.isatty():
        yield lambda line: None if _is_build_output(line) else print(line, file=stream, flush=True)
        return
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    status = console.status("getting the image")

    def say(line: str) -> None:
        status.start()
        if _is_build_output(line):
            status.update(line[: console.width - 4].replace("[", "\\["))
        else:
            console.print(line, markup=False)

    try:
        yield say
    finally:
        status.stop()


def _is_build_output(line: str) -> bool:
    """Whether a line comes from BuildKit, which numbers its steps (``#7 ...``), or is empty."""
    return line.startswith("#") or not line.strip()


@contextmanager
def progress(stream: TextIO) -> Iterator[Callable[[Event], None]]:
    """Yield a function that shows events on a stream, live in a terminal."""
    if not stream.isatty():
        yield PlainProgress(stream).watch
        return
    live = LiveProgress(stream)
    with live.bar:
        yield live.watch
