"""The loss head of an evaluation gives what whole logits give, and makes none of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.containers.runs import ROOT, Bench, in_image


@pytest.mark.parametrize(("backend", "flavour"), [("trl", "cpu"), ("unsloth", "cuda")])
def test_log_probabilities_are_those_of_whole_logits_and_the_output_matrix_is_never_called(
    backend: str, flavour: str, engine: Any, image: Callable[[str, str], str], bench: Bench
) -> None:
    script = Path(shutil.copy(ROOT / "tests" / "containers" / "loss_head.py", bench.folder))
    printed = in_image(image(backend, flavour), script, bench)
    for name, found in json.loads(printed.splitlines()[-1]).items():
        allowed = 1e-5 if "fp32" in name else 0.2
        assert max(found["difference"], found["loss"]) < allowed, name
        assert found["calls"] == 0, name
        assert found["restored"], name
        if "bf16" in name:
            assert found["difference"] > 1e-4, "it computes in half precision"
