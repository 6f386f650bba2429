"""The caller's caches: where they are, and that a caller without a home is told so."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligntune.errors import EngineError
from aligntune_run.host.caches import cache_dir, hub_caches, token_file


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a uid without an account, where HOME is not set."""

    def home(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(home))


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("where", [cache_dir, hub_caches, token_file])
def test_without_a_home_it_says_what_to_set(where: object) -> None:
    assert callable(where)
    with pytest.raises(EngineError, match="has no home folder") as caught:
        where({})
    assert "XDG_CACHE_HOME" in caught.value.remedy
    where({"XDG_CACHE_HOME": "/caches"})


@pytest.mark.usefixtures("homeless")
def test_a_home_is_not_asked_for_where_every_cache_is_named() -> None:
    named = {"ALIGNTUNE_CACHE_DIR": "/a", "HF_HOME": "/h"}
    assert cache_dir(named) == Path("/a")
    assert hub_caches(named) == (Path("/h/hub"), Path("/h/datasets"))
    assert token_file(named) is None


def test_each_of_the_hubs_caches_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub_caches({}) == tuple(tmp_path / ".cache/huggingface" / n for n in ("hub", "datasets"))
    assert hub_caches({"HF_HOME": "/h", "HF_HUB_CACHE": "~/c"}) == (
        tmp_path / "c",
        Path("/h/datasets"),
    )
    (tmp_path / "token").write_text("hf_x")
    assert token_file({"HF_TOKEN_PATH": "~/token"}) == tmp_path / "token"
