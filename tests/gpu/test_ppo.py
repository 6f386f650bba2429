"""Our PPO on a real GPU, over Unsloth's and over plain transformers' policies.

PYTHONPATH=shared:launcher:images/unsloth python -m pytest tests/gpu/test_ppo.py
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
UNSLOTH = importlib.util.find_spec("unsloth") is not None


@pytest.mark.parametrize("critic", ["head", "model"])
@pytest.mark.parametrize("policy", ["full", "lora", "4bit"])
def test_ppo_learns_on_the_gpu(policy: str, critic: str, tmp_path: Path) -> None:
    script = [sys.executable, str(TESTS / "gpu" / "ppo.py"), policy, critic, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["backend"] == ("unsloth" if UNSLOTH else "transformers")
    # Sampled, scored and learned under the same modes and kernels: nothing has moved at first.
    assert told["first_approx_kl"] < 1e-3
    assert abs(told["first_ratio"] - 1) < 0.02
    # Against one row at a time, unpadded, with the model as it is after training.
    assert told["padding_error"] < 0.05
    assert told["rewards"][1] > told["rewards"][0] + 0.1
