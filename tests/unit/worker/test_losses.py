"""Losses of a run: that a stop and a resume change none of them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.worker.trainer.losses import Losses, SummedLosses


def run(losses: Losses, values: list[float], began: int, every: int) -> list[float]:
    """Train on from a step, and what was logged."""
    logged = []
    for step, value in enumerate(values, began + 1):
        losses.add(value)
        if step % every == 0:
            logged.append(losses.log(step))
    return logged


@given(
    values=st.lists(st.floats(0, 20, width=32), min_size=1, max_size=40),
    stop=st.integers(0, 40),
    every=st.integers(1, 7),
)
def test_a_run_that_was_stopped_anywhere_tells_the_figures_of_one_that_was_not(
    values: list[float], stop: int, every: int
) -> None:
    whole = Losses()
    logged = run(whole, values, 0, every)
    first, second = Losses(), Losses()
    before = run(first, values[:stop], 0, every)
    second.restore(json.loads(json.dumps(first.state())))
    after = run(second, values[stop:], min(stop, len(values)), every)
    assert before + after == logged
    assert second.mean(len(values)) == whole.mean(len(values))


def test_the_mean_is_of_all_steps_and_what_is_logged_of_those_since_the_last() -> None:
    losses = Losses()
    assert run(losses, [4.0, 2.0, 1.0, 1.0], 0, 2) == [3.0, 1.0]
    losses.add(7.0)
    assert losses.mean(5) == 3.0


class Loss(float):
    """As much of a tensor as is needed."""

    def detach(self) -> Loss:
        return self

    def double(self) -> float:
        return float(self)


class Trainer:
    """As much of a trainer as is needed."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(global_step=0)
        self.logged: list[dict[str, Any]] = []

    def training_step(self, loss: float) -> Loss:
        return Loss(loss)

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        self.logged.append(logs)


def test_a_trainer_logs_these_means_and_leaves_other_figures_alone() -> None:
    losses = Losses()
    trainer = type("Trainer", (SummedLosses, Trainer), {"losses": losses})()
    for loss in (1.0, 2.0, 4.0, 5.0):  # two steps of two parts each
        assert trainer.training_step(loss) == loss
    trainer.state.global_step = 2
    trainer.log({"loss": 99.0, "grad_norm": 1.0}, 0.0)
    trainer.log({"eval_loss": 3.0})
    assert trainer.logged == [{"loss": 6.0, "grad_norm": 1.0}, {"eval_loss": 3.0}]
    assert losses.mean(2) == pytest.approx(6.0)
