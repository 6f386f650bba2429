"""What the unit tests share: how many examples hypothesis tries, and not to be root."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

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
