"""The runner of these tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.helpers.scripted_runner import Scripted

from aligntune.api import trainer
from aligntune.core import backend_factory


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scripted:
    for name in [name for name in os.environ if name.startswith("ALIGNTUNE_")]:
        monkeypatch.delenv(name)
    made = Scripted()
    monkeypatch.setattr(trainer, "find_runner", lambda: made)
    monkeypatch.setattr(backend_factory, "find_runner", lambda: made)
    monkeypatch.chdir(tmp_path)
    return made
