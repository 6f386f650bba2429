"""What is loaded is whole, what is saved says what was loaded, and what is measured is that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.containers.runs import ROOT, Bench, in_image

SCRIPTS = ("helpers/tiny.py", "containers/architectures.py", "containers/saving.py")

SAID = {
    "wrapped": "Remove '_orig_mod.' from the names",
    "no head": "missing: lm_head.weight. If",
    "unknown": "unknown to the model: v_head.weight",
    "another size": "up_proj.weight is [47, 32] in the files and [48, 32] in the model",
    "adapter": "missing: base_model.model.model.layers.1.mlp.down_proj.lora_A",
}


def scripts(bench: Bench, name: str) -> Path:
    """A folder with the scripts that run in an image."""
    folder = bench.folder / name
    folder.mkdir()
    for script in SCRIPTS:
        shutil.copy(ROOT / "tests" / script, folder)
    bench.give_away()
    return folder


@pytest.fixture(scope="module", params=[("trl", "cpu"), ("unsloth", "cuda")], ids=lambda p: p[0])
def found(request: Any, image: Callable[[str, str], str], bench: Bench) -> dict[str, Any]:
    """What the script found in an image."""
    backend, flavour = request.param
    folder = scripts(bench, f"saving-{backend}")
    printed = in_image(image(backend, flavour), folder / "saving.py", bench, folder)
    return dict(json.loads(printed.splitlines()[-1]))


def test_weights_that_are_not_the_models_are_an_error_with_their_names(
    found: dict[str, Any],
) -> None:
    for damage, told in SAID.items():
        assert told in found["checkpoints"][damage], damage


def test_old_buffers_and_a_head_that_the_task_adds_are_none_of_those(
    found: dict[str, Any],
) -> None:
    assert found["checkpoints"]["buffers"] == ""
    assert found["checkpoints"].get("a new head", "") == ""  # Unsloth trains no classifiers


def test_a_policy_that_did_not_move_is_its_reference_to_the_last_digit(
    found: dict[str, Any],
) -> None:
    half = found["half precision"]
    kept = {key: half[key] for key in half if not key.startswith("sft")}
    assert kept
    for how, figures in kept.items():
        assert figures, how
        assert set(figures) == {0.0}, how


def test_weights_go_back_to_the_dtype_they_came_in_and_are_measured_so(
    found: dict[str, Any],
) -> None:
    assert found["half precision"]["sft dtypes"] == ["torch.bfloat16"]
    in_run, later = found["half precision"]["sft loss"]
    assert in_run == later


def test_a_folder_says_after_training_what_it_said_before(found: dict[str, Any]) -> None:
    assert found["settings"]["differences"] == []
    assert found["settings"]["left over"] == []


def test_experts_are_measured_without_their_router(found: dict[str, Any]) -> None:
    in_run, plainly, later = found["settings"]["loss"]
    assert abs(in_run - plainly) < 1e-4
    assert in_run == later


def test_whole_numbers_reach_a_reward_whole_next_to_fractions(found: dict[str, Any]) -> None:
    assert found["numbers"] == 1.0


def test_preferences_are_not_learned_through_a_head_that_is_not_the_models(
    found: dict[str, Any],
) -> None:
    told = "cannot compute the log-probabilities of RobertaForCausalLM"
    assert told in found["another head"]


def test_an_evaluation_inside_another_leaves_its_modes(found: dict[str, Any]) -> None:
    """In evaluation mode, bitsandbytes repacks 4-bit weights, which then pass no gradient."""
    assert found["nested modes"] == {"packed": True, "dropout": False}


def test_what_cannot_be_saved_ends_a_run_before_its_first_step(found: dict[str, Any]) -> None:
    assert "could not be saved after training" in found["unsavable"]["error"]
    assert found["unsavable"]["steps"] == 0
