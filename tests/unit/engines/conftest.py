"""A host for engines."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.hosts import make_host

from aligntune_run.host.types import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)
