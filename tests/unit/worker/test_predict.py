"""Predictions: completions are as long as the model has room for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aligntune.errors import DataError
from aligntune.worker.tasks.predict import _fitting


class Config(SimpleNamespace):
    def get_text_config(self) -> Config:
        return self


def fitting(lengths: list[int], wanted: int, limit: int | None) -> tuple[int, list[str]]:
    notes: list[str] = []
    model = SimpleNamespace(config=Config(max_position_embeddings=limit))
    return _fitting([[1] * length for length in lengths], model, wanted, notes.append), notes


@pytest.mark.parametrize(("lengths", "wanted", "limit"), [([6, 3], 4, 10), ([6], 4, None)])
def test_what_fits_is_generated_in_full(lengths: list[int], wanted: int, limit: int | None) -> None:
    assert fitting(lengths, wanted, limit) == (wanted, [])


def test_what_does_not_fit_is_shortened_with_a_note() -> None:
    most, (note,) = fitting([6, 3], 9, 10)
    assert most == 4
    assert note == (
        "completions end after 4 new tokens, not 9: the longest prompt has 6 tokens, and the model "
        "takes 10 in all"
    )


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([3, 10], "prompt 2 has 10 tokens, and the model takes 10 in all"),
        ([0], "prompt 1 is empty"),
    ],
)
def test_a_prompt_without_room_for_an_answer_is_refused(lengths: list[int], says: str) -> None:
    with pytest.raises(DataError, match=says):
        fitting(lengths, 4, 10)
