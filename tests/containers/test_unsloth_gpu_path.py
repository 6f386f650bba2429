"""The trainers that Unsloth rewrites for a GPU take our arguments and data, and learn the same.

On a stand-in for a GPU, so kernels and bitsandbytes are not exercised: see unsloth_gpu_path.py.
"""

from __future__ import annotations

import shutil

import pytest
from tests.containers.learning import Learning
from tests.containers.runs import ROOT, bare

ADAPTER = {"rank": 8, "targets": ["q_proj", "v_proj"]}
NO_PADDING = {"generation_kwargs": {"suppress_tokens": [0]}}
"""Unsloth leaves out of the loss any padding that was sampled, as only a toy would."""


@pytest.mark.parametrize(
    ("algorithm", "adapter"),
    [
        ("sft", False),
        ("sft", True),
        ("dpo", False),
        ("grpo", False),
        *(
            pytest.param(*cell, marks=pytest.mark.matrix)
            for cell in (("dpo", True), ("dr_grpo", False), ("dapo", False), ("rloo", False))
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
    script = shutil.copy(
        ROOT / "tests" / "containers" / "unsloth_gpu_path.py", learning.bench.folder
    )
    engine, image, bench = learning.engine, learning.image, learning.bench
    program = ["python", f"/in{script}"]
    gpu_path = bare(engine, image("unsloth", "cuda"), bench, spec, program)
    trl = bare(engine, image("trl", "cpu"), bench, spec)
    assert (gpu_path.result["backend"], trl.result["backend"]) == ("unsloth", "trl")
    figure = f"eval_{learning.toy(algorithm).figure}"
    if adapter:  # its first weights are random, in each backend's own way
        assert gpu_path.losses[0] == pytest.approx(trl.losses[0], abs=1e-4)
        assert gpu_path.losses[-1] < gpu_path.losses[0]
    else:
        assert gpu_path.losses == pytest.approx(trl.losses, abs=1e-3)
        assert gpu_path.result[figure] == pytest.approx(trl.result[figure], abs=1e-3)
