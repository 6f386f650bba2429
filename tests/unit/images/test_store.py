"""The engine's images: which are current, and what pruning removes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, DockerException
from requests.exceptions import ConnectionError as LostConnection

from aligntune import contract
from aligntune.errors import EngineError
from aligntune_run.images import derived_state, list_images, obtain, prune, recipe, states


class FakeClient:
    """What the store uses of an engine, over images that are given as tags and labels."""

    def __init__(self, *images: tuple[list[str], dict[str, str]]) -> None:
        self.found = images
        self.used: set[str] = set()
        self.removed: list[str] = []
        self.api = SimpleNamespace(images=self.list_labelled, remove_image=self.remove)
        self.images = SimpleNamespace(get=self.get, list=self.list_named)

    def list_labelled(self, filters: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {"Id": f"sha256:{number}", "RepoTags": tags, "Labels": labels, "Size": 1}
            for number, (tags, labels) in enumerate(self.found)
            if filters["label"] in labels
        ]

    def list_named(self, name: str) -> list[Any]:
        return [
            SimpleNamespace(tags=tags)
            for tags, _ in self.found
            if any(tag.partition(":")[0] == name for tag in tags)
        ]

    def get(self, ref: str) -> Any:
        return SimpleNamespace(attrs={"Id": "sha256:here"})

    def remove(self, tag: str) -> None:
        if tag in self.used:
            raise APIError("conflict", explanation="a container uses it")
        self.removed.append(tag)


class TestStore:
    @pytest.fixture
    def stale(self) -> dict[str, str]:
        return {**recipe("trl", "cuda").labels, contract.LABEL_RECIPE: "0" * 64}

    def pruned(self, client: Any) -> list[str]:
        said: list[str] = []
        prune(client, said.append)
        return said

    def test_a_stale_image_goes_with_our_tags_and_keeps_the_users(
        self, stale: dict[str, str]
    ) -> None:
        exact = f"aligntune-trl:cuda-{'0' * 12}"
        client = FakeClient(([exact, "aligntune-trl:cuda", "mine:1"], stale))
        self.pruned(client)
        assert client.removed == ["aligntune-trl:cuda", exact]

    @pytest.mark.parametrize(
        "tags", [["mine:1"], ["aligntune-trl:cuda"], ["aligntune-trl:cuda-mine"], [], None]
    )
    def test_what_was_derived_or_built_by_compose_is_the_users(
        self, tags: list[str] | None, stale: dict[str, str]
    ) -> None:
        by_compose = {
            name: stale[name] for name in (contract.LABEL_BACKEND, contract.LABEL_FLAVOUR)
        }
        for labels in (stale, by_compose, recipe("trl", "cuda").labels):
            client: Any = FakeClient((tags or [], labels))
            self.pruned(client)
            assert client.removed == []
            row, *missing = list_images(client)
            assert row.state == "yours"
            assert recipe("trl", "cuda").ref in {image.ref for image in missing}

    def test_what_is_current_stays(self) -> None:
        made = recipe("trl", "cuda")
        client: Any = FakeClient(
            ([made.ref, made.alias], made.labels), ([made.base_ref, "aligntune-base:x"], {})
        )
        self.pruned(client)
        assert client.removed == ["aligntune-base:x"]
        row, *missing = list_images(client)
        assert (row.ref, row.state, row.code) == (made.ref, "up to date", "up to date")
        assert made.ref not in {image.ref for image in missing}

    def test_an_image_of_other_code_is_up_to_date_and_stays(self) -> None:
        made = recipe("trl", "cuda")
        older = {**made.labels, contract.LABEL_CODE: "0" * 64}
        client: Any = FakeClient(([made.ref, made.alias], older))
        self.pruned(client)
        assert client.removed == []
        row, *missing = list_images(client)
        assert (row.state, row.code, row.stale) == ("up to date", "differs", False)
        assert made.ref not in {image.ref for image in missing}

    @pytest.mark.parametrize(
        ("change", "ours"),
        [
            ({}, True),
            ({"Env": ["MINE=1"]}, False),
            ({"layers": ["a", "b", "mine"]}, False),
            ({"labels": {"mine": "1"}}, False),
        ],
        ids=["other code", "another variable", "another layer", "another label"],
    )
    def test_a_build_with_newer_code_leaves_a_stale_image_and_a_derived_one_is_the_users(
        self, change: dict[str, Any], ours: bool
    ) -> None:
        made = recipe("trl", "cuda")
        labels = {**made.labels, contract.LABEL_CODE: "0" * 64, **change.get("labels", {})}
        client: Any = FakeClient(([made.ref, made.alias], made.labels), ([], labels))
        config = {"Labels": labels, "Env": change.get("Env", ["A=1"])}
        layers = change.get("layers", ["a", "old"])
        inspected = {
            "sha256:1": {"Config": config, "RootFS": {"Layers": layers}},
            made.ref: {
                "Config": {"Labels": made.labels, "Env": ["A=1"]},
                "RootFS": {"Layers": ["a", "new"]},
            },
        }
        client.images.get = lambda ref: SimpleNamespace(attrs=inspected[ref])
        self.pruned(client)
        assert client.removed == (["sha256:1"] if ours else [])

    def test_what_is_in_use_is_named_and_the_rest_goes_on(self, stale: dict[str, str]) -> None:
        exact = f"aligntune-trl:cuda-{'0' * 12}"
        client = FakeClient(
            ([exact], stale), (["aligntune-base:a", "mine:base"], {}), (["aligntune-base:b"], {})
        )
        client.used = {exact, "aligntune-base:a"}
        said = self.pruned(client)
        assert client.removed == ["aligntune-base:b"]
        assert f"kept {exact}: a container uses it" in said

    def test_podmans_names_are_ours_too(self, stale: dict[str, str]) -> None:
        exact = f"localhost/aligntune-trl:cuda-{'0' * 12}"
        client = FakeClient(([exact], stale))
        self.pruned(client)
        assert client.removed == [exact]

    def test_an_image_that_will_be_obtained_anew_has_no_id_yet(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aligntune_run.images.store._how_made", lambda *_: ("build", ""))
        client: Any = FakeClient()
        assert {state.id for state in states(client, "missing")} == {"sha256:here"}
        assert {state.id for state in states(client, "always")} == {None}

    @pytest.mark.parametrize("error", [DockerException("gone"), LostConnection("gone")])
    def test_an_engine_that_fails_is_an_error_and_no_traceback(self, error: Exception) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        client: Any = FakeClient()
        client.images.get = client.images.list = client.api.images = fail
        made = recipe("trl", "cuda")
        for ask in (
            lambda: states(client),
            lambda: derived_state(client, "mine"),
            lambda: obtain(client, made, say=print),
            lambda: list_images(client),
            lambda: prune(client, print),
        ):
            with pytest.raises(EngineError, match="gone"):
                ask()
