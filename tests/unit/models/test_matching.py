"""Weights are those that config.json describes, as far as the headers tell."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.checkpoints import LLAMA, llama, write_model

from aligntune.errors import ModelError
from aligntune_run.models.facts import read_model


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda weights: {f"_orig_mod.{name}": size for name, size in weights.items()},
            "_orig_mod.",
        ),
        (
            lambda weights: without(weights, "model.layers.1.mlp.up_proj.weight"),
            "up_proj of layer 1",
        ),
        (lambda weights: without(weights, "model.embed_tokens.weight"), "the embedding is missing"),
        (lambda weights: without(weights, "lm_head.weight"), "lack lm_head.weight"),
        (
            lambda weights: weights | {"model.embed_tokens.weight": ("BF16", (299, 64))},
            "embed_tokens.weight has the size [299, 64] instead of [300, 64]",
        ),
        (
            lambda weights: (
                weights | {"model.layers.0.self_attn.k_proj.weight": ("BF16", (64, 64))}
            ),
            "k_proj.weight has the size [64, 64] instead of [32, 64]",
        ),
    ],
)
def test_weights_that_are_not_those_of_config_json_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], told: str
) -> None:
    config = {**LLAMA, "head_dim": 16, "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(ModelError, match=re.escape(told)):
        read_model(str(write_model(tmp_path / "m", config, change(llama()))))
    assert read_model(str(write_model(tmp_path / "whole", config))).parameters


def test_a_classifier_needs_no_output_matrix(tmp_path: Path) -> None:
    config = {**LLAMA, "architectures": ["LlamaForSequenceClassification"]}
    weights = without(llama(), "lm_head.weight")
    assert read_model(str(write_model(tmp_path / "m", config, weights))).parameters


def without(weights: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: size for key, size in weights.items() if key != name}
