"""The canonical form of a spec, which a record holds and a run can be repeated from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.specs import NEEDED, spec_of

from aligntune.spec.layers import Layer, from_file, nested
from aligntune.spec.resolve import known_keys, resolve

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
numbers_in_disguise = st.sampled_from(
    [
        "1e5",
        "123e4567",
        "1e-4",
        "0x1F",
        "1_000",
        "010",
        "no",
        "null",
        "~",
        "1:30",
        "2026-01-01",
        "=",
    ]
)
words = texts | numbers_in_disguise
names = words.filter(lambda word: not word.startswith("/"))  # local ones have no revision
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
)
free = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(words, inner))


@given(
    values=st.fixed_dictionaries(
        {
            "algorithm": st.just("sft"),
            "model": st.fixed_dictionaries(
                {"name": names},
                optional={
                    "revision": words,
                    "quantization": st.sampled_from(["none", "4bit", "8bit"]),
                },
            ),
            "dataset": st.fixed_dictionaries(
                {"name": names},
                optional={
                    "system_prompt": words,
                    "columns": st.dictionaries(st.sampled_from(["prompt", "completion"]), words),
                    "config": words,
                },
            ),
        },
        optional={
            "training": st.fixed_dictionaries(
                {},
                optional={
                    "learning_rate": st.floats(0, 1e6),
                    "epochs": st.floats(0, 1e6, exclude_min=True),
                    "max_length": st.none() | st.integers(1, 10**9),
                    "gradient_checkpointing": st.booleans() | st.just("auto"),
                },
            ),
            "adapter": st.fixed_dictionaries(
                {"rank": st.integers(1, 512)}, optional={"targets": st.lists(words, min_size=1)}
            ),
            "trainer_args": st.dictionaries(words, free, max_size=3),
        },
    )
)
def test_the_canonical_form_read_again_is_the_same_spec(
    values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = resolve([Layer("test", values)]).spec
    path = tmp_path_factory.getbasetemp() / "spec.yaml"
    path.write_text(spec.to_yaml(), encoding="utf-8")
    assert resolve([from_file(path)]).spec == spec


@pytest.mark.parametrize(
    "assignments",
    [
        ["model.name=/m", "dataset.name=/d"],
        ["adapter.path=/a"],
        ["dataset.eval_name=org/e", "training.eval_steps=1"],
    ],
)
def test_a_finished_run_s_spec_runs_again(assignments: list[str], tmp_path: Path) -> None:
    spec = spec_of(*assignments)
    path = tmp_path / "spec.yaml"
    path.write_text(spec.to_yaml(), encoding="utf-8")
    assert resolve([from_file(path)]).spec == spec


def test_the_canonical_form_holds_every_key() -> None:
    written = spec_of().to_yaml()
    assert all(f"{key.rpartition('.')[2]}:" in written for key in known_keys())


def test_a_flag_is_heard_over_the_spec_of_a_finished_run(tmp_path: Path) -> None:
    whole = resolve([Layer("test", {**NEEDED, "training": {"max_steps": 5}})]).spec
    (tmp_path / "spec.yaml").write_text(whole.to_yaml())
    written = from_file(tmp_path / "spec.yaml")

    again = resolve([written, Layer("--epochs", nested("training.epochs", 1))]).spec
    assert (again.training.epochs, again.training.max_steps) == (1, None)
    assert resolve([written, Layer("--lora-rank", nested("adapter.rank", 8))]).spec.adapter == (
        whole.adapter.model_copy(update={"type": "lora", "rank": 8})
    )
    quantized = resolve([written, Layer("--load-in-4bit", nested("model.quantization", "4bit"))])
    assert quantized.spec.adapter.type == "lora"
    assert resolve([written]).spec == whole
