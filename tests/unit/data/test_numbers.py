"""Whole numbers are told from fractions, by column."""

from __future__ import annotations

from aligntune.data.numbers import Numbers


def test_a_column_is_mixed_from_the_row_on_in_which_it_has_both() -> None:
    numbers = Numbers()
    assert numbers.mixed({"answer": 1, "score": 0.5}) == set()
    assert numbers.mixed({"answer": None, "score": 1.5}) == set()
    assert numbers.mixed({"answer": 2.5}) == {"answer"}
    assert numbers.mixed({"answer": 3, "score": 2}) == {"answer", "score"}


def test_numbers_inside_lists_and_objects_count_and_true_is_none() -> None:
    numbers = Numbers()
    assert numbers.mixed({"tags": [1, {"weight": 2}], "label": True}) == set()
    assert numbers.mixed({"tags": [{"weight": 0.5}], "label": 1}) == {"tags"}
