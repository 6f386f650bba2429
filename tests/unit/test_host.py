"""What an engine says of itself, as facts of the host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aligntune_run.host import probe_engine


@pytest.mark.parametrize(
    ("info", "way"),
    [
        ({}, "none"),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, "nvidia"),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, "cdi"),
    ],
)
def test_an_engine_says_how_it_passes_gpus(
    info: dict[str, Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # where NVIDIA's hook would be
    client = SimpleNamespace(info=lambda: info, api=SimpleNamespace(base_url="unix:///x"))
    assert probe_engine(client, "").gpu_way == way
