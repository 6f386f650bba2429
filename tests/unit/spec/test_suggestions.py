"""Suggestions: what to write instead of a key of another tool, or of a mistyped path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aligntune.errors import AligntuneError, SpecError
from aligntune.spec.layers import Layer, nested
from aligntune.spec.other_names import OTHER_NAMES
from aligntune.spec.paths import similar_path
from aligntune.spec.resolve import known_keys, resolve

NEEDED: dict[str, Any] = {"algorithm": "sft", "model": "org/model", "dataset": "org/data"}


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("training.bf16", "; did you mean 'training.precision=bf16'?"),
        ("num_train_epochs", "; did you mean 'training.epochs'?"),
        ("training.per_device_train_batch_size", "; did you mean 'training.batch_size'?"),
        ("micro_batch_size", "; did you mean 'training.batch_size'?"),
        ("cutoff_len", "; did you mean 'training.max_length'?"),
        ("adapter.lora_r", "; did you mean 'adapter.rank'?"),
        ("load_in_4bit", "; did you mean 'model.quantization=4bit'?"),
        ("training.report_to", "; a run always writes its losses to events.jsonl and tensorboard/"),
        ("training.deepspeed", "; a run uses one process and one GPU; remove it"),
        ("training.zzzzzz", ""),
        ("training.report", ""),
        ("learning", "; did you mean 'training.learning_rate'?"),
    ],
)
def test_a_key_of_another_tool_is_answered_with_what_to_write_here(key: str, says: str) -> None:
    with pytest.raises(SpecError) as refused:
        resolve([Layer("test", NEEDED), Layer("--set", nested(key, 1))])
    expected = f"unknown key {key!r} (from --set){says}"
    assert str(refused.value).startswith(expected)
    assert says or str(refused.value) == expected


def test_every_suggestion_for_another_name_is_a_key_or_a_sentence() -> None:
    keys = {*known_keys(), "dataset.columns.text"}
    leaves = {key.rpartition(".")[2] for key in keys}
    for name, instead in OTHER_NAMES.items():
        assert name not in leaves, f"{name} is a key of its own"
        assert " " in instead or instead.partition("=")[0] in keys, instead


def test_all_unknown_keys_of_a_file_are_named_at_once() -> None:
    axolotl = {"base_model": "m", "micro_batch_size": 1, "sequence_len": 2, "val_set_size": 0.1}
    with pytest.raises(SpecError) as refused:
        resolve([Layer("test", NEEDED), Layer("a.yaml", axolotl)])
    for key in ("model.name", "training.batch_size", "training.max_length"):
        assert f"did you mean {key!r}?" in refused.value.what
    with pytest.raises(SpecError, match=r"; and 12 more$"):
        resolve([Layer("test", NEEDED), Layer("a.yaml", {f"zz{n}": 1 for n in range(20)})])


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("model", "./modle", "./model"),
        ("model", "modle/", "./model"),
        ("dataset", "data/chat.jsonl", "./data/chats.jsonl"),
        ("dataset", "dta/chats.jsonl", "./data/chats.jsonl"),
        ("dataset", "Data/chats.json", "./data/chats.jsonl"),
        ("dataset", "./data/chats", "./data/chats.jsonl"),
        ("model.chat_template", "own.jinj", "./own.jinja"),
        ("rewards", "rewrd.py:good", "./reward.py"),
        ("model", "./nothing-like-it", None),
        ("dataset", "data/a.jsonl", None),
    ],
)
def test_a_mistyped_path_is_answered_with_its_neighbour(
    key: str, value: str, near: str | None, tmp_path: Path
) -> None:
    for folder in ("model", "data"):
        (tmp_path / folder).mkdir()
    for file in ("data/chats.jsonl", "own.jinja", "reward.py"):
        (tmp_path / file).touch()
    with pytest.raises(AligntuneError) as refused:
        resolve([Layer("test", NEEDED), Layer("test", nested(key, value))], tmp_path)
    suggestion = f"; did you mean {near}?"
    assert refused.value.remedy.endswith(suggestion) if near else "mean" not in str(refused.value)
    if ":" not in value:
        assert (similar_path(value, tmp_path) or "") == (near or "")
