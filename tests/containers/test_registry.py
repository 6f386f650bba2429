"""Published images, pulled by digest from a real registry; and a user's own derived ones.

The images that are pushed and pulled are a few bytes with the labels that the launcher reads. Their
recipes are of a backend that only exists here, so no tag of this machine's own is touched.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy
from tests.containers.runs import TRACEBACK, TRAINING, Bench

from aligntune import contract
from aligntune.errors import ImageError
from aligntune_run.images import (
    PullPolicy,
    Recipe,
    Sources,
    find_buildkit_client,
    obtain,
    present,
    recipe,
)

BACKEND = "stand-in"
REPOSITORY = "aligntune-test"
PROGRAM = "docker-registry"
PORT = 5000
PAIRS = [{"prompt": f"what is {n} plus two", "completion": f" {n + 2}"} for n in range(16)]

DOCKERFILE = """\
ARG BASE
ARG TORCH=torch
FROM ${BASE} AS torch
FROM ${TORCH} AS backend
COPY shared/aligntune /aligntune
"""
"""With the stages and arguments of the real one, and nothing in them."""

Push = Callable[..., str]


@pytest.fixture(scope="module")
def registry(image: Callable[[str, str], str]) -> Iterator[str]:
    """The address of a registry on this machine, which every engine speaks plain HTTP to.

    Its own image may be out of reach, so Debian's program runs in one of ours.
    """
    program = shutil.which(PROGRAM, path="/usr/bin:/usr/local/bin")
    assert program is not None, (
        f"this needs the program {PROGRAM}: apt-get install {PROGRAM}, as scripts/engine.sh does"
    )
    config = {"version": 0.1, "storage": {"inmemory": {}}, "http": {"addr": f":{PORT}"}}
    with (
        DockerContainer(image("trl", "cpu"), entrypoint=[f"/{PROGRAM}"])
        .with_command(["serve", "/config.yml"])
        .with_volume_mapping(program, f"/{PROGRAM}")
        .with_copy_into_container(json.dumps(config).encode(), "/config.yml")  # JSON is YAML
        .with_exposed_ports(PORT)
        .waiting_for(HttpWaitStrategy(PORT, "/v2/"))
    ) as served:
        yield f"127.0.0.1:{served.get_exposed_port(PORT)}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Site:
    """Recipes of a backend of this test's own, and the file that pins what is published of it."""

    sources: Sources
    pins: Path
    system: str

    @property
    def recipe(self) -> Recipe:
        return recipe(BACKEND, "cpu", self.sources)

    def pin(self, published: str) -> None:
        self.pins.write_text(json.dumps({f"{BACKEND}/cpu": published}))


@pytest.fixture
def build(engine: DockerClient) -> Iterator[Callable[..., str]]:
    """``build(tag, labels, content, base, place)`` makes a small image; all go at the end."""
    made: list[str] = []

    def build(
        tag: str,
        labels: Mapping[str, str],
        content: str = "x",
        base: str = "scratch",
        place: str = "/content",
    ) -> str:
        with tempfile.TemporaryDirectory(prefix="aligntune-test-") as folder:
            Path(folder, "Dockerfile").write_text(f"FROM {base}\nCOPY content {place}\n")
            Path(folder, "content").write_text(content)
            named = [f"--label={name}={value}" for name, value in labels.items()]
            find_buildkit_client().build([f"--tag={tag}", *named, folder], lambda line: None)
        made.append(tag)
        return str(engine.images.get(tag).id)

    yield build
    for tag in made:
        remove(engine, tag)


@pytest.fixture
def site(
    engine: DockerClient,
    build: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    images, shared = tmp_path / "images", tmp_path / "shared"
    (images / "base").mkdir(parents=True)
    (images / BACKEND).mkdir()
    shared.mkdir()
    for name in ("packages.txt", "tools.lock", "install.sh", "cpu.lock"):
        (images / "base" / name).touch()
    (images / BACKEND / "cpu.lock").write_text("nothing==1\n")
    (images / BACKEND / "facts.json").write_text(json.dumps({"versions": {"nothing": "1"}}))
    (images / BACKEND / "aligntune_backend.py").touch()
    (images / "Dockerfile").write_text(DOCKERFILE)
    (shared / "worker.py").write_text(f"{tmp_path.name!r}\n")
    pins = tmp_path / "pins.json"
    pins.write_text("{}")
    monkeypatch.setenv("ALIGNTUNE_PINS", str(pins))
    system = f"{REPOSITORY}:system"
    build(system, {})
    made = Site(Sources(images, shared), pins, system)
    yield made
    for tag in (made.recipe.ref, made.recipe.alias, made.recipe.base_ref):
        remove(engine, tag)


@pytest.fixture
def push(engine: DockerClient, registry: str, build: Callable[..., str]) -> Iterator[Push]:
    """``push(labels, content=...)`` publishes an image, which this machine then has no more."""
    pushed: list[str] = []

    def push(labels: Mapping[str, str], content: str = "x") -> str:
        tag = f"{registry}/aligntune:newest"
        build(tag, labels, content)
        for event in engine.api.push(tag, stream=True, decode=True):
            assert "error" not in event, event
        (digest,) = engine.images.get(tag).attrs["RepoDigests"]
        remove(engine, tag)
        remove(engine, digest)
        assert present(engine, digest) is None
        pushed.append(digest)
        return str(digest)

    yield push
    for digest in pushed:
        remove(engine, digest)


def remove(engine: DockerClient, name: str) -> None:
    with suppress(ImageNotFound):
        engine.images.remove(name, force=True)


def get(engine: DockerClient, site: Site, told: list[str], pull: PullPolicy = "missing") -> str:
    """Obtain the recipe's image, building on this test's own system where it must be built."""
    return obtain(engine, site.recipe, pull, base=site.system, say=told.append)


def content_of(engine: DockerClient, image: str) -> str:
    """What a pushed image holds, without running anything in it, as it has no program."""
    container = engine.containers.create(image, command=["none"])
    try:
        stream, _ = container.get_archive("/content")
        return b"".join(stream)[512:].rstrip(b"\0").decode()
    finally:
        container.remove()


def test_exactly_the_pinned_digest_is_pulled_and_tagged_as_the_recipe_asks(
    engine: DockerClient, site: Site, push: Push
) -> None:
    pinned = push(site.recipe.labels, "pinned")
    newer = push(site.recipe.labels, "newer, under the same tag")
    assert pinned != newer
    site.pin(pinned)
    told: list[str] = []
    image = get(engine, site, told)
    assert told[0] == f"pulling {pinned}"
    assert content_of(engine, image) == "pinned"
    assert pinned in engine.images.get(image).attrs["RepoDigests"]
    assert present(engine, site.recipe.ref) == image
    assert present(engine, site.recipe.alias) == image


def test_what_is_here_is_not_pulled_again_unless_always(
    engine: DockerClient, site: Site, push: Push
) -> None:
    site.pin(push(site.recipe.labels))
    image = get(engine, site, [])
    told: list[str] = []
    assert get(engine, site, told) == image
    assert told == []
    assert get(engine, site, told, "always") == image
    assert told == [f"pulling {site.recipe.pin}"]


def test_never_pulls_nothing_and_says_how_to_get_it(
    engine: DockerClient, site: Site, push: Push
) -> None:
    site.pin(push(site.recipe.labels))
    told: list[str] = []
    with pytest.raises(ImageError, match="--pull never forbids"):
        get(engine, site, told, "never")
    assert told == []
    assert present(engine, str(site.recipe.pin)) is None


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (
            {contract.LABEL_RECIPE: "0" * 64},
            "has another environment than this version of aligntune-run uses",
        ),
        ({contract.LABEL_CONTRACT: "999"}, "keeps version 999 of the contract"),
    ],
    ids=["another recipe", "another contract"],
)
def test_a_published_image_that_is_not_of_this_recipe_is_refused_and_one_is_built(
    labels: dict[str, str], why: str, engine: DockerClient, site: Site, push: Push
) -> None:
    site.pin(push({**site.recipe.labels, **labels}))
    told: list[str] = []
    image = get(engine, site, told)
    (refusal,) = [line for line in told if "building it instead" in line]
    assert refusal.startswith(str(site.recipe.pin))
    assert why in refusal
    built = engine.images.get(image)
    assert {name: built.labels.get(name) for name in site.recipe.labels} == site.recipe.labels
    assert present(engine, site.recipe.ref) == image
    assert built.attrs["RepoDigests"] == []


def test_a_published_image_of_other_code_serves_as_code_is_mounted(
    engine: DockerClient, site: Site, push: Push
) -> None:
    pinned = push({**site.recipe.labels, contract.LABEL_CODE: "0" * 64}, "published")
    site.pin(pinned)
    told: list[str] = []
    image = get(engine, site, told)
    assert told[0] == f"pulling {pinned}"
    assert "building" not in "".join(told)
    assert content_of(engine, image) == "published"
    assert present(engine, site.recipe.ref) == image


def test_a_published_image_that_is_not_ours_is_refused(
    engine: DockerClient, site: Site, push: Push
) -> None:
    site.pin(push({}))
    told: list[str] = []
    get(engine, site, told)
    assert f"{site.recipe.pin} is not made from an aligntune image" in "\n".join(told)


def test_a_registry_that_is_down_is_told_in_one_line_and_the_image_is_built(
    engine: DockerClient, site: Site
) -> None:
    port = free_port()
    site.pin(f"127.0.0.1:{port}/aligntune@sha256:{'0' * 64}")
    told: list[str] = []
    image = get(engine, site, told)
    (line,) = [line for line in told if "cannot pull" in line]
    assert line.startswith(f"cannot pull {site.recipe.pin}: ")
    assert "connection refused" in line
    assert line.endswith("; building it instead")
    assert "\n" not in line
    assert present(engine, site.recipe.ref) == image


def test_a_digest_that_the_registry_does_not_have_is_told(
    engine: DockerClient, site: Site, registry: str
) -> None:
    site.pin(f"{registry}/aligntune@sha256:{'0' * 64}")
    told: list[str] = []
    get(engine, site, told)
    (line,) = [line for line in told if line.startswith("cannot pull")]
    assert "manifest unknown" in line
    assert "\n" not in line


# --- images that a user derived from ours


def test_a_derived_image_trains_after_its_labels_were_checked(
    engine: DockerClient,
    image: Callable[[str, str], str],
    build: Callable[..., str],
    bench: Bench,
) -> None:
    derived = f"{REPOSITORY}:derived"
    ours = engine.images.get(image("trl", "cpu")).tags[0]
    place = f"{contract.CODE_DIR}/aligntune/mine.py"
    made = build(derived, {"my.own": "label"}, "# the user's own\n", ours, place)
    data = bench.write("derived.jsonl", PAIRS)
    ended = bench.train("llama", data, "--image", derived)
    assert ended.code == 0, ended.report
    chosen = ended.record["plan"]["choice"]
    assert (chosen["backend"], chosen["flavour"]) == ("trl", "cpu")
    assert (chosen["image"]["ref"], chosen["image"]["id"]) == (derived, made)
    assert ended.result["steps"] == TRAINING["max_steps"]
    (code,) = ended.record["code"]
    assert code != recipe("trl", "cpu").code_hash, "nothing hides the code of the user's own image"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({}, "is not made from an aligntune image: it has no label org.aligntune.contract"),
        ({contract.LABEL_CONTRACT: "0"}, "keeps version 0 of the contract"),
    ],
    ids=["without labels", "of another contract"],
)
def test_a_derived_image_that_does_not_keep_the_contract_is_refused(
    labels: dict[str, str], said: str, bench: Bench, build: Callable[..., str]
) -> None:
    derived = f"{REPOSITORY}:derived"
    build(derived, labels)
    data = bench.write("derived.jsonl", PAIRS)
    ended = bench.train("llama", data, "--image", derived)
    assert ended.code == ImageError.exit_code, ended.report
    assert ended.err.startswith(f"error: {derived} {said}")
    assert len(ended.err.splitlines()) == 1
    assert TRACEBACK not in ended.err + ended.out
    assert not ended.run.exists()


def test_an_image_that_is_not_here_is_named_with_how_to_get_it(bench: Bench) -> None:
    data = bench.write("derived.jsonl", PAIRS)
    ended = bench.train("llama", data, "--image", f"{REPOSITORY}:nowhere")
    assert ended.code == ImageError.exit_code, ended.report
    assert ended.err.startswith(f"error: there is no image {REPOSITORY}:nowhere here")
    assert f"docker pull {REPOSITORY}:nowhere" in ended.err
