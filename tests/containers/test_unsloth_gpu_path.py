"""The trainers that Unsloth rewrites for a GPU take our arguments and data, and learn the same.

On a stand-in for a GPU, so kernels and bitsandbytes are not exercised: see unsloth_gpu_path.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest
from tests.containers.learning import Learning
from tests.containers.runs import ROOT, Ended, bare

ADAPTER = {"rank": 8, "targets": ["q_proj", "v_proj"]}
NO_PADDING = {"generation_kwargs": {"suppress_tokens": [0]}}
"""Unsloth leaves out of the loss any padding that was sampled, as only a toy would."""


def on_the_gpu_path(learning: Learning, spec: Mapping[str, Any]) -> Ended:
    """A run through the trainers that Unsloth rewrites."""
    script = shutil.copy(
        ROOT / "tests" / "containers" / "unsloth_gpu_path.py", learning.bench.folder
    )
    image, program = learning.image("unsloth", "cuda"), ["python", f"/in{script}"]
    return bare(image, learning.bench, spec, program)


@pytest.mark.parametrize(
    ("algorithm", "adapter"),
    [
        ("sft", False),
        ("dpo", False),
        ("grpo", False),
        *(pytest.param(name, True, marks=pytest.mark.matrix) for name in ("sft", "dpo")),
        *(
            pytest.param(name, False, marks=pytest.mark.matrix)
            for name in ("dr_grpo", "dapo", "rloo")
        ),
        *(pytest.param(name, False, marks=pytest.mark.matrix) for name in ("kto", "ppo")),
    ],
)
def test_unsloths_gpu_trainers_come_to_trls_figures(
    algorithm: str, adapter: bool, learning: Learning
) -> None:
    spec = learning.spec(algorithm, max_steps=8, learning_rate=1e-3, logging_steps=1)
    spec |= {"adapter": ADAPTER} if adapter else {}
    spec |= {"trainer_args": NO_PADDING} if "grpo" in algorithm or algorithm == "dapo" else {}
    gpu_path = on_the_gpu_path(learning, spec)
    trl = bare(learning.image("trl", "cpu"), learning.bench, spec)
    assert (gpu_path.result["backend"], trl.result["backend"]) == ("unsloth", "trl")
    figure = f"eval_{learning.toy(algorithm).figure}"
    if adapter:  # its first weights are random, in each backend's own way
        assert gpu_path.losses[0] == pytest.approx(trl.losses[0], abs=1e-4)
        assert gpu_path.losses[-1] < gpu_path.losses[0]
    else:
        assert gpu_path.losses == pytest.approx(trl.losses, abs=1e-3)
        assert gpu_path.result[figure] == pytest.approx(trl.result[figure], abs=1e-3)


FLATTENED = "Padding-free auto-enabled"
"""What Unsloth's trainer prints where it flattens batches of its own accord."""


@pytest.mark.parametrize("adapter", [False, pytest.param(True, marks=pytest.mark.matrix)])
def test_unsloth_flattens_batches_of_its_own_accord_and_learns_from_the_same_tokens(
    adapter: bool, learning: Learning
) -> None:
    spec = learning.spec("sft", max_steps=6, learning_rate=1e-3, logging_steps=1)
    spec |= {"adapter": ADAPTER} if adapter else {}
    flat = on_the_gpu_path(learning, spec)
    padded = on_the_gpu_path(learning, {**spec, "trainer_args": {"padding_free": False}})
    logs = [(ended.run / "train.log").read_text(encoding="utf-8") for ended in (flat, padded)]
    assert [FLATTENED in log for log in logs] == [True, False]
    assert flat.result["tokens"] == padded.result["tokens"]
    assert flat.losses == pytest.approx(padded.losses, abs=1e-4), "no row sees another"
    assert flat.result["eval_loss"] == pytest.approx(padded.result["eval_loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "adapter", "planned"),
    [
        ("grpo", True, True),
        ("ppo", False, True),
        *(
            pytest.param(algorithm, adapter, planned, marks=pytest.mark.matrix)
            for algorithm in ("sft", "grpo", "ppo")
            for adapter in (False, True)
            for planned in (False, True)
            if (algorithm, adapter, planned) not in (("grpo", True, True), ("ppo", False, True))
        ),
    ],
)
def test_checkpointing_is_what_the_plan_says_after_a_rollout_and_an_evaluation(
    algorithm: str, adapter: bool, planned: bool, learning: Learning
) -> None:
    spec = learning.spec(
        algorithm, max_steps=4, eval_steps=2, logging_steps=1, gradient_checkpointing=planned
    )
    spec |= {"adapter": ADAPTER} if adapter else {}
    ended = on_the_gpu_path(learning, spec)
    assert ended.result["gradient_checkpointing"] is planned
    notes = [event["message"] for event in ended.events("note")]
    assert not [note for note in notes if "gradient checkpointing" in note]
