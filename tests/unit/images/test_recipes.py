"""What an image is made from: recipes and their hashes, pins, locks, facts and labels."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import pytest

from aligntune import contract
from aligntune.errors import ImageError
from aligntune_run.images import Recipe, Sources, check_labels, images_dir, recipe, recipes
from aligntune_run.images.recipes import sources
from aligntune_run.images.store import announcement

IMAGES = images_dir()
LOCKS = sorted(IMAGES.glob("*/*.lock"))
BACKEND_LOCKS = [lock for lock in LOCKS if lock.parent.name != "base"]
PIN = re.compile(r"^([\w.-]+==\S+)", re.MULTILINE)


Change: TypeAlias = Callable[[str], tuple[Recipe, Recipe]]


@pytest.fixture
def copied(tmp_path: Path) -> Sources:
    """A copy of the recipes and the shared code, to be changed."""
    here = sources()
    ignore = shutil.ignore_patterns("__pycache__")
    return Sources(
        shutil.copytree(here.images, tmp_path / "images", ignore=ignore),
        shutil.copytree(here.shared, tmp_path / "shared", ignore=ignore),
    )


ENVIRONMENT = [
    *("images/Dockerfile", "images/base/packages.txt", "images/base/tools.lock"),
    *("images/base/install.sh", "images/base/cuda.lock", "images/trl/cuda.lock"),
]
CODE = [
    *("images/trl/aligntune_backend.py", "shared/contract.py"),
    *("shared/worker/train.py", "shared/training/extra.py"),
]


@pytest.fixture
def change(copied: Sources, tmp_path: Path) -> Change:
    """``change(name)``: the recipe before and after a line is added to a file."""

    def changed(name: str) -> tuple[Recipe, Recipe]:
        before = recipe("trl", "cuda", copied)
        with (tmp_path / name).open("a") as file:
            file.write("# a comment\n")
        return before, recipe("trl", "cuda", copied)

    return changed


class TestRecipes:
    @pytest.mark.parametrize("name", ENVIRONMENT)
    def test_what_decides_the_environment_changes_the_tag(self, change: Change, name: str) -> None:
        before, after = change(name)
        assert after.ref != before.ref
        assert after.code_hash == before.code_hash

    @pytest.mark.parametrize("name", CODE)
    def test_code_changes_its_own_hash_and_leaves_the_tag(self, change: Change, name: str) -> None:
        before, after = change(name)
        assert after.code_hash != before.code_hash
        assert (after.ref, after.base_ref) == (before.ref, before.base_ref)

    def test_a_file_of_another_image_does_not_change_the_tag(self, copied: Sources) -> None:
        before = recipe("trl", "cuda", copied)
        (copied.images / "unsloth" / "cuda.lock").write_text("")
        (copied.images / "trl" / "cpu.lock").write_text("")
        assert recipe("trl", "cuda", copied) == before

    def test_the_shared_layers_stay_when_only_a_backend_changes(self, copied: Sources) -> None:
        before = recipe("trl", "cuda", copied)
        for path in (copied.images / "trl" / "cuda.lock", copied.images / "Dockerfile"):
            path.write_text(path.read_text() + "\n")
        after = recipe("trl", "cuda", copied)
        assert after.base_ref == before.base_ref
        (copied.images / "base" / "cuda.lock").write_text("")
        assert recipe("trl", "cuda", copied).base_ref != before.base_ref

    def test_both_backends_stand_on_the_same_layers(self) -> None:
        assert recipe("trl", "cuda").base_ref == recipe("unsloth", "cuda").base_ref

    def test_flavours_are_the_locks_there_are(self) -> None:
        made = {(one.backend, one.flavour) for one in recipes()}
        assert made == {("unsloth", "cuda"), ("trl", "cuda"), ("trl", "cpu")}

    def test_an_unknown_flavour_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(ImageError, match=r"no cpu image of unsloth.*trl cpu"):
            recipe("unsloth", "cpu")

    def test_labels_say_the_contract_and_the_lock(self) -> None:
        made = recipe("trl", "cuda")
        assert made.labels[contract.LABEL_CONTRACT] == str(contract.CONTRACT_VERSION)
        assert made.labels[contract.LABEL_CODE] == made.code_hash
        assert made.labels[contract.LABEL_LOCK] == sha256(made.lock.read_bytes()).hexdigest()
        assert json.loads(made.labels[contract.LABEL_VERSIONS])["trl"] == "1.16.0"
        assert made.labels[contract.LABEL_MIN_DRIVER] == "580.65.06"

    def test_the_dockerfile_keeps_the_contract(self) -> None:
        text = (IMAGES / "Dockerfile").read_text()
        assert f"{contract.LABEL_CONTRACT}={contract.CONTRACT_VERSION} " in text
        assert f"HF_HUB_CACHE={contract.HUB_CACHE} " in text
        assert f"HF_DATASETS_CACHE={contract.DATASETS_CACHE} " in text
        assert f"{contract.INPUT_ROOT_VARIABLE}={contract.INPUT_ROOT} " in text
        assert f"cp -r /tmp/code {contract.CODE_DIR} " in text
        assert f"echo {contract.CODE_DIR} > /opt/aligntune/lib/" in text


class TestPins:
    def pins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        path = tmp_path / "pins.json"
        path.write_text(text)
        monkeypatch.setenv("ALIGNTUNE_PINS", str(path))

    def test_a_digest_is_a_pin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pin = f"registry/name@sha256:{'a' * 64}"
        before = recipe("trl", "cuda").ref
        self.pins(tmp_path, monkeypatch, json.dumps({"trl/cuda": pin}))
        assert recipe("trl", "cuda").pin == pin
        assert recipe("unsloth", "cuda").pin is None
        assert recipe("trl", "cuda").ref == before, "where an image is published is no input"

    @pytest.mark.parametrize("text", ['{"trl/cuda": "registry/name:latest"}', "{", '["x"]'])
    def test_anything_else_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        self.pins(tmp_path, monkeypatch, text)
        with pytest.raises(ImageError, match=r"pins\.json"):
            recipe("trl", "cuda")


class TestLocks:
    @pytest.mark.parametrize("lock", BACKEND_LOCKS, ids=str)
    def test_the_base_is_a_part_of_every_lock(self, lock: Path) -> None:
        base = set(PIN.findall((IMAGES / "base" / lock.name).read_text()))
        assert base
        assert base <= set(PIN.findall(lock.read_text()))

    @pytest.mark.parametrize("lock", LOCKS, ids=str)
    def test_every_entry_has_a_hash(self, lock: Path) -> None:
        entries = re.split(r"\n(?=[\w.-]+==)", lock.read_text())
        assert len(entries) > (0 if lock.name == "tools.lock" else 8)
        assert [entry for entry in entries if "--hash=sha256:" not in entry] == []

    @pytest.mark.parametrize("lock", LOCKS, ids=str)
    def test_every_entry_is_one_exact_version(self, lock: Path) -> None:
        lines = [line for line in lock.read_text().splitlines() if not line.startswith((" ", "#"))]
        assert [line for line in lines if not PIN.match(line)] == []

    def test_no_file_holds_an_address_of_an_index(self) -> None:
        for path in filter(Path.is_file, IMAGES.rglob("*")):
            if path.suffix != ".pyc":
                assert not re.search(r"https?://|--(extra-)?index-url", path.read_text()), path


class TestFacts:
    @pytest.mark.parametrize("made", recipes(), ids=lambda one: one.alias)
    def test_they_are_of_the_versions_in_the_lock(self, made: Recipe) -> None:
        locked = dict(pin.split("==") for pin in PIN.findall(made.lock.read_text()))
        stack = {name.replace("_", "-"): version for name, version in made.versions.items()}
        assert {name: locked[name] for name in stack} == stack
        assert {"torch", "transformers", "trl"} <= set(stack)

    @pytest.mark.parametrize("made", recipes(), ids=lambda one: one.alias)
    def test_they_say_enough_to_choose_by(self, made: Recipe) -> None:
        assert {"llama", "gpt2", "qwen3", "gemma", "mistral"} <= set(made.facts["model_types"])
        assert {"max_length", "learning_rate"} <= set(made.facts["trainer_args"]["SFTConfig"])
        assert "adamw_torch" in made.facts["optimizers"]
        assert "linear" in made.facts["schedules"]
        assert made.expected_size
        assert made.download_size
        assert made.download_size < made.expected_size

    def test_unsloth_shows_what_it_takes_on_a_gpu(self) -> None:
        facts = recipe("unsloth", "cuda").facts
        assert "unsloth_num_chunks" in facts["trainer_args"]["SFTConfig"]
        assert {"llama", "mistral", "gemma", "qwen2", "qwen3"} <= set(facts["fast_model_types"])

    def test_the_size_is_said_first(self) -> None:
        assert re.search(
            r"is built here: \d+\.\d GiB to download, \d+\.\d GiB on disk",
            announcement(recipe("trl", "cuda")),
        )


class TestLabels:
    def test_our_own_pass(self) -> None:
        check_labels("x", recipe("trl", "cuda").labels)

    def test_every_version_from_the_oldest_passes(self) -> None:
        for version in range(contract.OLDEST_CONTRACT, contract.CONTRACT_VERSION + 1):
            check_labels("x", {contract.LABEL_CONTRACT: str(version)})

    @pytest.mark.parametrize("version", ["0", str(contract.CONTRACT_VERSION + 1), "x", ""])
    def test_another_contract_names_the_versions_that_run(self, version: str) -> None:
        runs = f"{contract.OLDEST_CONTRACT} to {contract.CONTRACT_VERSION}"
        with pytest.raises(ImageError, match=f"version {version} .*runs versions {runs}") as caught:
            check_labels("x", {contract.LABEL_CONTRACT: version})
        assert len(str(caught.value).splitlines()) == 1

    def test_an_image_of_someone_else_is_refused(self) -> None:
        with pytest.raises(ImageError, match="not made from an aligntune image"):
            check_labels("debian", {})
