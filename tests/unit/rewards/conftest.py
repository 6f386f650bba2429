"""A reward function in a file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.rewards import made


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Callable[..., Any]]:
    """``own(source, **args)``: the reward ``f`` of a user's file."""

    def load(source: str, timeout: float = 20.0, **args: Any) -> Callable[..., Any]:
        number = len(list(tmp_path.iterdir()))
        path = tmp_path / f"mine{number}.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return made(f"{path}:f", args, timeout)

    return load
