"""What the unit tests share: examples of hypothesis, an ordinary user, a clean environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.helpers.command import ROOT, model_folder

NOBODY = 65534

# A busy machine is slow, not wrong, and `make test` says the same twice.
settings.register_profile("unit", deadline=None, max_examples=50, derandomize=True, database=None)
settings.register_profile("long", deadline=None, max_examples=2000, database=None)
settings.load_profile("unit")


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Have the test run with an ordinary user's rights: root may look everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that an ordinary user may not look into."""
    (tmp_path / "closed").mkdir(mode=0)
    return tmp_path / "closed"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No settings, no engine and no token of whoever runs the tests."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ALIGNTUNE_", "HF_", "DOCKER_"))
    }
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "launcher"), str(ROOT / "shared")]),
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "DOCKER_HOST": f"unix://{tmp_path}/no.sock",
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }


@pytest.fixture
def needed(tmp_path: Path) -> list[str]:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a"}\n')
    model = model_folder(tmp_path / "model")
    return ["--algo", "sft", "--model", str(model), "--dataset", str(data)]
