"""What a test needs and a machine may lack."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(what: str) -> NoReturn:
    """Skip the test, in words; where CI runs nothing is left out, so it fails there."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
