"""A resumed run is the run that began, or what has changed is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aligntune.errors import AligntuneError, DataError, ModelError, RewardError, SpecError
from aligntune.record.unchanged import changed_settings, require_same_inputs, require_same_spec
from aligntune.spec.layers import Layer
from aligntune.spec.resolve import resolve
from aligntune.worker.inputs.fingerprints import of_model


def spec(**values: Any) -> dict[str, Any]:
    given = {"algorithm": "grpo", "model": "m", "dataset": "d", "rewards": "length", **values}
    return resolve([Layer("test", given)]).spec.model_dump(mode="json")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": "other"}, "began with model.name='m', and its spec.yaml now says 'other'"),
        ({"model": {"name": "m", "chat_template": "t.jinja"}}, "model.chat_template=None"),
        ({"dataset": {"name": "d", "split": "train[:5]"}}, "dataset.split='train'"),
        ({"adapter": {"rank": 8}}, "adapter.type='none'"),
        ({"rewards": "math"}, "rewards="),
        ({"algorithm": "rloo"}, "algorithm='grpo', and its spec.yaml now says 'rloo'"),
    ],
)
def test_another_model_template_data_adapter_or_reward_is_refused_by_name(
    changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpecError) as refused:
        require_same_spec(spec(), spec(**changed))
    assert says in refused.value.what
    assert "without --resume" in refused.value.remedy


def test_other_settings_can_change_and_are_reported() -> None:
    now = spec(training={"max_steps": 5, "save_steps": 3}, gpus="0")
    require_same_spec(spec(), now)
    found = changed_settings(spec(), now)
    assert found == "training.max_steps None -> 5, training.save_steps 500 -> 3"
    assert changed_settings(spec(), spec(gpus="0", memory="8g")) == ""


def test_keys_of_another_version_are_no_change() -> None:
    older = spec()
    del older["model"]["trust_remote_code"]
    older["dataset"]["gone"] = 1
    require_same_spec(older, spec())
    require_same_spec({}, spec())
    assert changed_settings({}, spec()) == ""


@pytest.mark.parametrize(
    ("key", "kind", "title"),
    [
        ("model", ModelError, "the model"),
        ("adapter", ModelError, "the adapter"),
        ("chat_template", ModelError, "the chat template"),
        ("train", DataError, "the training data"),
        ("evaluation", DataError, "the evaluation data"),
        ("rewards", RewardError, "the reward"),
    ],
)
@pytest.mark.parametrize("fingerprint", ["sha256", "fingerprint"])
def test_content_that_has_changed_is_refused_by_name(
    key: str, kind: type[AligntuneError], title: str, fingerprint: str
) -> None:
    def inputs(content: str) -> dict[str, Any]:
        entry = {"source": "x", fingerprint: content}
        return {key: [entry] if key == "rewards" else entry}

    require_same_inputs(inputs("a"), inputs("a"))
    require_same_inputs({}, inputs("a"))
    with pytest.raises(kind, match=rf"{title} \(x\) has changed since this run began"):
        require_same_inputs(inputs("a"), inputs("b"))


def test_a_model_s_fingerprint_is_of_all_that_loading_reads(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text("{}")
    content = bytearray(8 * 2**20)
    weights.write_bytes(content)
    first = of_model(tmp_path)
    (tmp_path / "README.md").write_text("read me")
    (tmp_path / ".cache").touch()
    assert of_model(tmp_path) == first, "notes and hidden files are not part of it"
    content[4 * 2**20 :] = b"\1" * (4 * 2**20)
    weights.write_bytes(content)
    second = of_model(tmp_path)
    assert second != first, "the same size and the same beginning"
    content[-1] = 2
    weights.write_bytes(content)
    assert of_model(tmp_path) != second, "the last byte"
    (tmp_path / "config.json").write_text("[]")
    assert of_model(tmp_path) not in (first, second)
