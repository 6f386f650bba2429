"""Recipes, locks, wheels and labels: all that can be known of images without an engine."""

from __future__ import annotations

import json
import re
import shutil
import stat
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, DockerException
from requests.exceptions import ConnectionError as LostConnection

from aligntune import contract
from aligntune.errors import EngineError, ImageError
from aligntune_run.images import (
    Recipe,
    Sources,
    check_labels,
    derived_state,
    find_buildkit_client,
    find_torch_wheel,
    images_dir,
    list_images,
    obtain,
    prune,
    recipe,
    recipes,
    states,
)
from aligntune_run.images.builder import Client, _checked, _mirror
from aligntune_run.images.indexes import CA_VARIABLES, ca_bundle, index_settings
from aligntune_run.images.recipes import sources
from aligntune_run.images.store import announcement
from aligntune_run.subprocesses import Finished, capture, stream

IMAGES = images_dir()
LOCKS = sorted(IMAGES.glob("*/*.lock"))
BACKEND_LOCKS = [lock for lock in LOCKS if lock.parent.name != "base"]
PIN = re.compile(r"^([\w.-]+==\S+)", re.MULTILINE)

WHEEL = "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"


@pytest.fixture
def copied(tmp_path: Path) -> Sources:
    """A copy of the recipes and the shared code, to be changed."""
    here = sources()
    ignore = shutil.ignore_patterns("__pycache__")
    return Sources(
        shutil.copytree(here.images, tmp_path / "images", ignore=ignore),
        shutil.copytree(here.shared, tmp_path / "shared", ignore=ignore),
    )


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which nobody configured pip or uv; its home directory."""
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_INDEX",
                 "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL",
                 "PIP_CONFIG_FILE", "XDG_CONFIG_HOME", *CA_VARIABLES):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("aligntune_run.images.indexes.SITE_CONFIG", ())
    return home


@pytest.fixture
def cpu_lock(tmp_path: Path) -> Path:
    """A lock that names a wheel of the content b"torch"."""
    lock = tmp_path / "cpu.lock"
    good = sha256(b"torch").hexdigest()
    lock.write_text(
        f"sympy==1.14.0 \\\n    --hash=sha256:{'0' * 64}\n"
        f"torch==2.13.0+cpu \\\n    --hash=sha256:{good}\n    # via trl\n"
        f"trl==1.16.0 \\\n    --hash=sha256:{'1' * 64}\n"
    )
    return lock


def folder_with(path: Path, content: bytes) -> str:
    path.mkdir()
    (path / WHEEL).write_bytes(content)
    return str(path)


class TestRecipes:
    @pytest.mark.parametrize(
        "name",
        [
            "images/Dockerfile",
            "images/base/packages.txt",
            "images/base/tools.lock",
            "images/base/install.sh",
            "images/base/cuda.lock",
            "images/trl/cuda.lock",
        ],
    )
    def test_what_decides_the_environment_changes_the_tag(
        self, copied: Sources, tmp_path: Path, name: str
    ) -> None:
        before = recipe("trl", "cuda", copied)
        path = tmp_path / name
        path.write_text(path.read_text() + "\n")
        after = recipe("trl", "cuda", copied)
        assert after.ref != before.ref
        assert after.code_hash == before.code_hash

    @pytest.mark.parametrize(
        "name",
        [
            "images/trl/aligntune_backend.py",
            "shared/contract.py",
            "shared/worker/train.py",
            "shared/training/extra.py",
        ],
    )
    def test_code_changes_its_own_hash_and_leaves_the_tag(
        self, copied: Sources, tmp_path: Path, name: str
    ) -> None:
        before = recipe("trl", "cuda", copied)
        with (tmp_path / name).open("a") as file:
            file.write("# a comment\n")
        after = recipe("trl", "cuda", copied)
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
            r"is built here: \d+\.\d GB to download, \d+\.\d GB on disk",
            announcement(recipe("trl", "cuda")),
        )


class TestWheels:
    def test_a_lock_without_a_cpu_build_needs_none(self) -> None:
        assert find_torch_wheel(IMAGES / "trl" / "cuda.lock").files == ()

    def test_it_is_found_by_name_and_hash(self, bare: Path, cpu_lock: Path) -> None:
        folder = folder_with(bare / "wheels", b"torch")
        found = find_torch_wheel(cpu_lock, [folder])
        assert found.files == (Path(folder, WHEEL),)

    def test_a_wrong_hash_is_refused(self, bare: Path, cpu_lock: Path) -> None:
        folder = folder_with(bare / "wheels", b"something else")
        with pytest.raises(ImageError, match="sha256 differs"):
            find_torch_wheel(cpu_lock, [folder])

    def test_the_next_place_is_tried_after_a_wrong_hash(self, bare: Path, cpu_lock: Path) -> None:
        wrong = folder_with(bare / "wrong", b"something else")
        right = folder_with(bare / "right", b"torch")
        assert find_torch_wheel(cpu_lock, [wrong, right]).files == (Path(right, WHEEL),)

    def test_nowhere_is_an_error_with_a_remedy(self, bare: Path, cpu_lock: Path) -> None:
        with pytest.raises(ImageError, match="--find-links"):
            find_torch_wheel(cpu_lock)

    def test_pips_own_settings_are_read(
        self, bare: Path, cpu_lock: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = folder_with(bare / "wheels", b"torch")
        config = bare / ".config" / "pip" / "pip.conf"
        config.parent.mkdir(parents=True)
        config.write_text(f"[global]\nfind-links =\n    /nowhere\n    {folder}\n")
        assert find_torch_wheel(cpu_lock).files == (Path(folder, WHEEL),)
        config.unlink()
        monkeypatch.setenv("PIP_FIND_LINKS", f"/nowhere file://{folder}")
        assert find_torch_wheel(cpu_lock).files == (Path(folder, WHEEL),)

    def test_an_address_goes_to_the_build(self, bare: Path, cpu_lock: Path) -> None:
        found = find_torch_wheel(cpu_lock, ["https://wheels.example/"])
        assert found.urls == ("https://wheels.example/",)
        assert "UV_FIND_LINKS=https://wheels.example/" in index_settings(found)


class TestPackageSettings:
    def test_an_index_with_a_password_survives_the_shell(self, bare: Path) -> None:
        url = "https://me:a$b'c@index.example/simple"
        settings = index_settings(
            find_torch_wheel(IMAGES / "trl/cuda.lock"), {"PIP_INDEX_URL": url}
        )
        said = capture(["sh", "-c", f"{settings}printenv UV_DEFAULT_INDEX PIP_INDEX_URL"])
        assert said.out.split() == [url, url]

    def test_a_folder_of_this_host_is_no_index_for_a_build(self, bare: Path) -> None:
        nothing = find_torch_wheel(IMAGES / "trl/cuda.lock")
        assert index_settings(nothing, {"PIP_EXTRA_INDEX_URL": "file:///srv/simple"}) == ""

    def test_the_ca_bundle_is_the_one_that_programs_were_told(self, bare: Path) -> None:
        bundle = bare / "ca.crt"
        bundle.touch()
        assert ca_bundle({}) is None
        assert ca_bundle({"SSL_CERT_FILE": "/gone", "PIP_CERT": str(bundle)}) == bundle


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


class TestBuilding:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The only folder in which programs are looked for."""
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("aligntune_run.images.builder.USUAL_FOLDERS", ())
        return tmp_path

    def docker(self, folder: Path, version: str, buildx: bool) -> Path:
        path = folder / "docker"
        path.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}"\n'
            f'[ "$1" = buildx ] && exit {int(not buildx)}\nexit 0\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    @pytest.mark.parametrize(
        ("version", "buildx"),
        [
            ("Docker version 20.10.24+dfsg1, build 297e128", False),
            ("Docker version 28.2.2, build e6534b4", True),
        ],
    )
    def test_a_client_with_buildkit_is_found(self, path: Path, version: str, buildx: bool) -> None:
        program = self.docker(path, version, buildx)
        assert find_buildkit_client() == Client(program)

    def test_a_newer_client_without_buildx_is_passed_over(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (path / "old").mkdir()
        self.docker(path, "Docker version 28.2.2, build e6534b4", buildx=False)
        old = self.docker(path / "old", "Docker version 20.10.24, build 1", buildx=False)
        monkeypatch.setenv("PATH", f"{path}:{path / 'old'}")
        assert find_buildkit_client() == Client(old)

    def test_a_folder_of_the_path_that_is_closed_to_us_is_passed_over(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, ordinary_user: None
    ) -> None:
        monkeypatch.setenv("PATH", "/proc/1/cwd")
        with pytest.raises(ImageError, match="docker client, and there is none"):
            find_buildkit_client()

    def test_what_is_missing_is_named(self, path: Path) -> None:
        with pytest.raises(ImageError, match="docker client, and there is none"):
            find_buildkit_client()
        program = self.docker(path, "Docker version 28.2.2, build e6534b4", buildx=False)
        with pytest.raises(ImageError, match=f"{program} .*28.2.2.*buildx plugin"):
            find_buildkit_client()

    @pytest.mark.parametrize(
        ("line", "remedy"),
        [
            ("write /x: no space left on device", "docker builder prune"),
            ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
            ("failed to lookup address information: Temporary failure", "DNS"),
            ("Hash mismatch for `filelock==4.2.12`", "mirror"),
            ("no version of torch==2.13.0+cpu", "--find-links"),
            ("something nobody foresaw", "The lines above"),
        ],
    )
    def test_a_failed_build_says_what_to_do(self, line: str, remedy: str) -> None:
        with pytest.raises(ImageError, match=re.escape(line)) as caught:
            _checked(Finished(("docker", "build"), 1, f"#5 ok\n#6 ERROR: {line}\n"))
        assert remedy in caught.value.remedy

    def test_the_mirror_is_the_one_that_apt_uses(self, tmp_path: Path) -> None:
        lists = tmp_path / "sources.list.d"
        lists.mkdir()
        assert _mirror(tmp_path) == []
        (lists / "debian.sources").write_text(
            "Types: deb\n# http://snapshot.example/debian/1\nURIs: http://mirror.example/debian\n"
        )
        assert _mirror(tmp_path) == ["http://mirror.example/debian"]
        (tmp_path / "sources.list").write_text(
            "deb [arch=amd64] http://other.example/debian/ x main\n"
        )
        assert _mirror(tmp_path) == ["http://other.example/debian/"]


class TestPrograms:
    def test_a_missing_program_is_a_failure_and_no_exception(self) -> None:
        assert capture(["/no/such/program"]).code == 127
        assert stream(["/no/such/program"], print).code == 127

    def test_lines_arrive_as_they_are_printed(self) -> None:
        lines: list[str] = []
        done = stream(["sh", "-c", "echo one; echo two >&2; exit 3"], lines.append)
        assert (lines, done.code, done.out) == (["one", "two"], 3, "one\ntwo")

    def test_a_program_ends_with_the_one_that_listens(self) -> None:
        def interrupt(line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stream(["sh", "-c", "echo; exec sleep 60"], interrupt)
