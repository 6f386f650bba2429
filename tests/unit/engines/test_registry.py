"""The registry: every engine that a spec can name, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.hosts import make_host

from aligntune.errors import EngineError, SpecError
from aligntune_run.engines.base import EngineKind
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.engines.registry import (
    ENGINES,
    engine_kind,
    find_engine,
    may_use_containers,
    pick_engine,
)
from aligntune_run.host.types import Engine
from aligntune_run.selection.select import bare_request


def test_a_spec_can_name_every_engine() -> None:
    for name in ENGINES:
        assert isinstance(engine_kind(name), EngineKind)
        assert bare_request(engine=name).engine == name


def test_an_engine_that_does_not_exist_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SpecError, match=r"no engine 'dokcer'; did you mean 'docker'\?") as refused:
        may_use_containers("dokcer")
    assert "process" in refused.value.remedy


@pytest.mark.parametrize(
    ("wanted", "reachable", "picked"),
    [
        ("auto", True, "docker"),
        ("auto", False, "process"),
        ("docker", True, "docker"),
        ("docker", False, "process"),
        ("process", True, "process"),
        ("process", False, "process"),
    ],
)
def test_auto_is_a_container_if_there_is_an_engine(
    wanted: str, reachable: bool, picked: str, tmp_path: Path
) -> None:
    host = make_host(tmp_path, engine=Engine(reachable, "there is none"))
    assert pick_engine(wanted, host) == picked


def test_only_a_request_that_may_use_containers_needs_an_engine() -> None:
    assert may_use_containers("auto")
    assert may_use_containers("docker")
    assert not may_use_containers("process")


def test_a_handle_names_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert isinstance(find_engine("process:1:2:boot:/runs/r/.worker"), ProcessEngine)
    with pytest.raises(EngineError, match=r"no container engine: there is no /nowhere\.sock"):
        find_engine("docker:aligntune-r-train-1")
    with pytest.raises(EngineError, match="no engine has the handle 'kubernetes:pod'"):
        find_engine("kubernetes:pod")
