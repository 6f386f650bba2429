"""Chat templates: nothing that a row says is lost in silence, and a trained model stops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.containers.runs import ROOT, Bench, in_image


@pytest.mark.parametrize(("backend", "flavour"), [("trl", "cpu"), ("unsloth", "cuda")])
def test_every_template_of_trl_renders_refuses_or_reports_every_shape_and_ends_every_answer(
    backend: str, flavour: str, engine: Any, image: Callable[[str, str], str], bench: Bench
) -> None:
    script = Path(shutil.copy(ROOT / "tests" / "containers" / "templates.py", bench.folder))
    printed = in_image(engine, image(backend, flavour), script, bench)
    found = json.loads(printed.splitlines()[-1])
    assert found["failed"] == {}
    assert found["cases"] > 33 * 30
