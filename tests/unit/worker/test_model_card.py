"""The model card: what a model is, what it came from, and figures that can be read."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from aligntune.record.schema import ParentRecord
from aligntune.spec.layers import Layer
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.model_card import model_card

RESULT = {"steps": 3, "tokens": 99, "train_loss": 2.302585092994046, "eval_loss": 1 / 3}
PARENT = ParentRecord(id="20261128-1-sft-base-ba6ed9", algorithm="sft", base="org/base")


def spec(**values: Any) -> RunSpec:
    given = {"algorithm": "dpo", "model": "/runs/sft/model", "dataset": "org/pairs", **values}
    return resolve([Layer("test", given)]).spec


def test_a_card_names_the_base_by_its_own_name_and_the_run_between() -> None:
    card = model_card(spec(), RESULT, {"trl": "1"}, PARENT)
    header = yaml.safe_load(card.split("---")[1])
    assert (header["base_model"], header["datasets"]) == ("org/base", ["org/pairs"])
    assert "\n# base, dpo\n" in card
    assert "Fine-tuned from `org/base` by" in card
    assert "after sft in run `20261128-1-sft-base-ba6ed9`" in card


def test_a_card_of_a_local_model_names_no_base_of_a_hub() -> None:
    card = model_card(spec(model="/models/mine"), RESULT, {}, None)
    assert "base_model" not in card
    assert "\n# mine, dpo\n" in card


def test_a_card_s_figures_have_six_digits() -> None:
    card = model_card(spec(), RESULT, {}, None)
    assert "| training loss | 2.30259 |" in card
    assert "| evaluation loss | 0.333333 |" in card
    assert "| steps | 3 |" in card
    assert not re.search(r"\d\.\d{7}", card)


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto", "reward"])
def test_an_adapter_s_learning_rate_is_a_round_figure(algorithm: str) -> None:
    rate = spec(algorithm=algorithm, adapter={"rank": 4}).training.learning_rate
    assert len(f"{rate}".replace(".", "")) < 8, rate
