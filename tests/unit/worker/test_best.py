"""The best evaluation of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from aligntune.record.events import EventReader, EventWriter
from aligntune.worker.trainer.best import Best, held_step


@pytest.mark.parametrize(
    ("higher", "step", "new"),
    [(False, 2, [True, True, True, False, False]), (True, 3, [True, False, False, True, False])],
)
def test_the_first_of_the_best_values_counts(higher: bool, step: int, new: list[bool]) -> None:
    best, values = Best("figure", higher), [3.0, 2.0, 1.0, 4.0, 4.0]
    assert [best.see(n, {"figure": value}) for n, value in enumerate(values)] == new
    assert (best.step, best.value) == (step, values[step])


def test_an_evaluation_without_the_figure_is_no_candidate() -> None:
    best = Best("margin", True)
    assert not best.see(1, {"margin": None})
    assert best.result(1) == {"figure": "margin", "value": None, "step": None, "kept": True}


def test_a_checkpoint_keeps_it() -> None:
    best, again = Best("loss", False), Best("loss", False)
    best.see(4, {"loss": 0.5})
    again.restore(best.state())
    assert again == best
    assert not again.see(5, {"loss": 0.6})


def test_the_figure_is_the_family_s_unless_the_user_names_another() -> None:
    assert Best.named(("accuracy", True), {}) == Best("accuracy", True)
    named = {"metric_for_best_model": "eval_loss", "greater_is_better": False}
    assert Best.named(("accuracy", True), named) == Best("loss", False)


@pytest.mark.parametrize(
    ("held", "keep", "said"),
    [
        (8, False, []),
        (9, False, [("note", "training.keep_best=true would have kept it")]),
        (9, True, [("warning", "its checkpoint is gone; step 9 is saved")]),
    ],
)
def test_a_result_that_is_not_the_best_is_reported(
    held: int, keep: bool, said: list[tuple[str, str]], tmp_path: Path
) -> None:
    best = Best("loss", False, 0.145, 8)
    file = tmp_path / "events.jsonl"
    with EventWriter(file) as events:
        best.end(held, {"loss": 0.295 if held == 9 else 0.145}, events, keep)
    found = [(event["event"], event["message"]) for event in EventReader(file)]
    assert [kind for kind, _ in found] == [kind for kind, _ in said]
    for (_, message), (_, part) in zip(found, said, strict=True):
        assert "at step 8 (loss 0.1450)" in message
        assert part in message


def test_the_result_is_of_the_last_step_unless_the_best_was_loaded() -> None:
    state = SimpleNamespace(global_step=36, best_model_checkpoint="/run/checkpoints/checkpoint-8")
    trainer = SimpleNamespace(state=state, args=SimpleNamespace(load_best_model_at_end=True))
    assert held_step(trainer) == 8
    trainer.args.load_best_model_at_end = False
    assert held_step(trainer) == 36
