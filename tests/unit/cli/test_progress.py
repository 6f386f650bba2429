"""Progress over a recorded run: plain lines for a file, a bar for a terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from aligntune_run.cli.progress import obtaining, progress

RUN: list[dict[str, Any]] = [
    {"event": "phase", "name": "load_model"},
    {"event": "phase", "name": "load_data"},
    {"event": "data", "part": "train", "rows": 9, "format": "chat", "source": "a.jsonl"},
    {"event": "note", "message": "3 rows were cut [bold]"},
    {"event": "start", "max_steps": 4, "epochs": 1, "parameters": 10, "trainable": 10},
    {"event": "step", "step": 1, "max_steps": 4, "loss": 6.5, "tokens_per_second": None},
    {"event": "step", "step": 2, "max_steps": 4, "tokens_per_second": 1500.0},
    {"event": "warning", "message": "the disk is nearly full"},
    {"event": "step", "step": 4, "max_steps": 4, "loss": 5.25, "tokens_per_second": 1600.0},
    {"event": "evaluate", "step": 4, "loss": 5.5, "perplexity": 244.7, "tokens": 90},
    {"event": "save", "step": 4, "path": "/run-dir/checkpoints/checkpoint-4"},
    {"event": "end", "status": "finished", "result": {}},
]
FAILED: list[dict[str, Any]] = [
    {"event": "phase", "name": "load_data"},
    {"event": "error", "kind": "DataError", "what": "a.jsonl, line 3: no", "remedy": ""},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(events: list[dict[str, Any]], stream: io.StringIO) -> str:
    with progress(stream) as watch:
        for event in events:
            watch(event)
    return stream.getvalue()


def test_without_a_terminal_each_event_is_a_plain_line() -> None:
    assert shown(RUN, io.StringIO()).splitlines() == [
        "load model ...",
        "load data ...",
        "train: 9 rows, chat (a.jsonl)",
        "3 rows were cut [bold]",
        "training 10 of 10 parameters (100.00 %), 4 steps",
        "step 1/4  loss 6.5000",
        "WARNING: the disk is nearly full",
        "step 4/4  loss 5.2500  1,600 token/s",
        "evaluation at step 4: loss 5.5000",
        "checkpoint: /run-dir/checkpoints/checkpoint-4",
    ]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_in_a_terminal_the_bar_ends_at_the_last_step_with_loss_and_speed(
    terminal: Terminal,
) -> None:
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(RUN, terminal))
    assert "4/4  loss 5.2500  1,600 token/s" in words
    assert "load data" in words


def test_in_a_terminal_lasting_messages_scroll_above_the_bar(
    terminal: Terminal,
) -> None:
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(RUN, terminal))
    for line in (
        "3 rows were cut [bold]",
        "WARNING: the disk is nearly full",
        "evaluation at step 4: loss 5.5000",
    ):
        assert words.count(line) == 1


def test_in_a_terminal_nothing_moves_before_the_user_was_asked(terminal: Terminal) -> None:
    with obtaining(terminal) as say:
        assert terminal.getvalue() == "", "a question can be read and answered"
        say("pulling an image")
        assert "pulling an image" in terminal.getvalue()
        assert "getting the image" in terminal.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_does_not_print_the_error(stream: type[io.StringIO], terminal: Terminal) -> None:
    assert "line 3" not in shown(FAILED, stream())
