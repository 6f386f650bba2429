"""Events: one JSON object per line in ``events.jsonl``, written by the worker, read by others.

Every event has ``time`` (seconds since the epoch) and ``event``, one of:

============ ==================================================================================
``phase``    ``name``: a phase of the run starts (see :data:`PHASES`)
``data``     ``part``, ``rows``, ``format``, ``source``: what was read
``start``    ``max_steps``, ``epochs``, ``parameters``, ``trainable`` and ``recipe`` (see
             :mod:`aligntune.record.recipe`): training starts
``step``     ``step``, ``max_steps``, ``epoch``, ``tokens``, ``tokens_per_second``, and if the
             trainer logged them ``loss``, ``grad_norm``, ``learning_rate``; further ones, such as
             rewards, by the trainer's names in ``figures``
``evaluate`` ``step`` (of a run that is trained) and what the algorithm's family measures: ``loss``
             (mean over tokens, nats) and ``perplexity``; ``accuracy`` and ``margin``; ``reward``
             and ``kl``
``save``     ``step``, ``path``: a checkpoint is complete
``note``     ``message``: something the user should know
``warning``  ``message``: something the user must not miss
``error``    ``kind``, ``what``, ``remedy``: the run failed, and why
``end``      ``status`` and ``result``: the last event
============ ==================================================================================
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TextIO

from aligntune.errors import AligntuneError, OutputError
from aligntune.record.recipe import recipe_lines

Event = dict[str, Any]

PHASES = (
    *("start", "fetch", "import", "load_model", "load_data", "train", "evaluate", "save"),
    *("predict", "push"),
)


class EventWriter:
    """Appends events to a file, flushed one by one, and prints them for people."""

    def __init__(self, path: Path, say: TextIO | None = None) -> None:
        self._file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise OutputError(
                f"another worker is using {path.parent}",
                "Wait for it to end, or use another folder",
            ) from None
        except OSError:
            pass  # a file system without locks, such as some network file systems
        if path.stat().st_size > (whole := _whole_lines(path)):
            self._file.truncate(whole)  # an incomplete line of a worker that was killed
        self._say = say

    def __call__(self, event: str, **values: Any) -> None:
        record = {"time": round(time.time(), 3), "event": event, **values}
        try:
            self._file.write(
                json.dumps(record, ensure_ascii=False, allow_nan=False, default=str) + "\n"
            )
            self._file.flush()
        finally:  # on a full disk, only the printed line remains
            line = describe(record)
            if self._say is not None and line:
                print(line, file=self._say, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class EventReader:
    """Reads the events since the last read; an incomplete line is left for the next read.

    Args:
        path: ``events.jsonl``, which need not exist yet.
        skip: ignore the events that exist now.
    """

    def __init__(self, path: Path, skip: bool = False) -> None:
        self._path = path
        self._offset = _whole_lines(path) if skip and path.exists() else 0

    def __iter__(self) -> Iterator[Event]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._offset += len(line)
                    yield json.loads(line)
        except FileNotFoundError:
            return


HEADLINES = ("loss", "accuracy", "margin", "reward", "kl")
"""The main figures of an evaluation."""

PROGRESS = {"reward": "reward", "rewards/accuracies": "accuracy", "accuracy": "accuracy"}
"""Logged figures that show progress better than the loss, and their names."""


def headline(figures: Event) -> str:
    """The main figures of an evaluation, as text: ``accuracy 0.9000, margin 1.2345``."""
    found = {name: figures[name] for name in HEADLINES if figures.get(name) is not None}
    return ", ".join(f"{name} {value:.4f}" for name, value in found.items())


def progress(step: Event) -> str:
    """The loss of a step, and further figures that show progress."""
    words = [f"loss {step['loss']:.4f}"]
    figures = step.get("figures", {})
    words += [f"{title} {figures[name]:.4f}" for name, title in PROGRESS.items() if name in figures]
    return "  ".join(words)


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last complete line."""
    return path.read_bytes().rfind(b"\n") + 1


def describe(event: Event) -> str:
    """One line of text for an event, or nothing for minor events."""
    match event["event"]:
        case "phase":
            return f"{event['name'].replace('_', ' ')} ..."
        case "data":
            return f"{event['part']}: {event['rows']} rows, {event['format']} ({event['source']})"
        case "start":
            share = 100 * event["trainable"] / max(event["parameters"], 1)
            sizes = (
                f"training {event['trainable']:,} of {event['parameters']:,} parameters "
                f"({share:.2f} %), {event['max_steps']} steps"
            )
            recipe = event.get("recipe")
            return "\n".join([*recipe_lines(recipe), sizes] if recipe else [sizes])
        case "step" if "loss" in event:
            speed = event.get("tokens_per_second")
            return f"step {event['step']}/{event['max_steps']}  {progress(event)}" + (
                f"  {speed:,.0f} token/s" if speed else ""
            )
        case "evaluate":
            at = f" at step {event['step']}" if "step" in event else ""
            return f"evaluation{at}: {headline(event)}"
        case "save":
            return f"checkpoint: {event['path']}"
        case "note":
            return str(event["message"])
        case "warning":
            return f"WARNING: {event['message']}"
        case "error":
            return f"error: {AligntuneError(event['what'], event['remedy'])}"
        case _:
            return ""
