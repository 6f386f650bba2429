"""The built images: what their recipes say, nothing that should not be there, and for any user."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeAlias, cast

import pytest
from docker import DockerClient
from tests.containers.jobs import CONFINED, container, output_of

from aligntune import contract
from aligntune_run.images import Recipe, list_images, recipe, recipes
from aligntune_run.images.indexes import ca_bundle

Images: TypeAlias = Callable[[str, str], str]

ALL = pytest.mark.parametrize("made", recipes(), ids=lambda one: one.alias)
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
LEFTOVER = re.compile(
    r"^(tmp/.|run/.|tools/|mnt/.|root/\.(?!bashrc|profile)|var/lib/apt/lists/(?!$|lock$|partial/?$)"
    r"|var/cache/apt/.*\.(bin|deb)$|var/log/.*\.log$)|(^|/)(uv|pip|\.wh\..*)$|\.whl$"
)
DEBIANS_OWN = re.compile(r"^usr/share/python-wheels/")
"""Debian's package of pip is a wheel."""


ANYONE = "54321:54321"


def confined(image: str, program: str) -> str:
    """What a Python program prints that runs in an image as a training would."""
    return output_of(image, ["-c", program], entrypoint=["python"], user=ANYONE, **CONFINED)


@ALL
def test_the_facts_are_what_the_image_says(image: Images, made: Recipe) -> None:
    program = (
        "import contextlib, json, sys\n"
        "from aligntune.worker.image_facts import facts\n"
        "with contextlib.redirect_stdout(sys.stderr): said = facts()\n"
        "print(json.dumps(said))\n"
    )
    said = json.loads(confined(image(made.backend, made.flavour), program))
    measured = {"image_size", "download_size"}
    flavour = {k: v for k, v in made.flavour_facts.items() if k not in measured}
    assert said.pop("flavour") == flavour
    assert said == {name: value for name, value in made.facts.items() if name != "flavours"}


@ALL
def test_the_labels_are_those_of_the_recipe(
    engine: DockerClient, image: Images, made: Recipe
) -> None:
    labels = engine.images.get(image(made.backend, made.flavour)).labels
    assert {name: labels.get(name) for name in made.labels} == made.labels
    assert labels[contract.LABEL_CONTRACT] == str(contract.CONTRACT_VERSION)


@ALL
def test_it_is_as_large_as_was_announced(engine: DockerClient, image: Images, made: Recipe) -> None:
    size = engine.images.get(image(made.backend, made.flavour)).attrs["Size"]
    assert size == pytest.approx(made.expected_size, rel=0.02)


def test_both_backends_share_the_layers_of_the_base(engine: DockerClient, image: Images) -> None:
    def layers(name: str) -> list[str]:
        return list(engine.images.get(name).attrs["RootFS"]["Layers"])

    base = engine.images.get(recipe("trl", "cuda").base_ref)
    below = layers(str(base.id))
    for backend in ("trl", "unsloth"):
        assert layers(image(backend, "cuda"))[: len(below)] == below
    assert base.attrs["Size"] > 0.8 * engine.images.get(image("trl", "cuda")).attrs["Size"]


@ALL
def test_the_list_shows_it_up_to_date(engine: DockerClient, image: Images, made: Recipe) -> None:
    here = image(made.backend, made.flavour)
    row = next(row for row in list_images(engine) if row.ref == made.ref)
    assert (row.id, row.state, row.code) == (here, "up to date", "up to date")
    assert row.versions == made.versions


@ALL
def test_it_runs_as_anyone_on_a_read_only_root(image: Images, made: Recipe) -> None:
    """Triton compiles C with Python's headers and loads it, so a compiler must work too."""
    program = f"""
import ctypes, getpass, os, pathlib, shutil, subprocess
import {"unsloth" if made.backend == "unsloth" else "trl"}
import bitsandbytes, torch, trl
assert os.getuid() == 54321 and getpass.getuser() == "aligntune"
assert not os.access("/", os.W_OK) and pathlib.Path("/cache/new").write_text("x")
pathlib.Path("/tmp/x.c").write_text("#include <Python.h>\\nint three(void) {{ return 3; }}")
gcc = "gcc -shared -fPIC -I/usr/include/python3.11 -o /tmp/x.so /tmp/x.c"
subprocess.run(gcc.split(), check=True)
assert ctypes.CDLL("/tmp/x.so").three() == 3
assert shutil.which("aligntune-train") and not shutil.which("uv") and not shutil.which("pip")
stale = [path for path in pathlib.Path(trl.__file__).parent.rglob("*.py")
         if not list((path.parent / "__pycache__").glob(path.stem + ".*.pyc"))]
assert not stale, stale
print(torch.__version__.partition("+")[0])
"""
    said = confined(image(made.backend, made.flavour), program)
    assert said.split()[-1] == made.versions["torch"].partition("+")[0]


def test_the_caches_are_anyones_where_nothing_is_mounted(image: Images) -> None:
    script = "mkdir -p $TRITON_CACHE_DIR && touch $TRITON_CACHE_DIR/x && id -u"
    said = output_of(image("trl", "cpu"), ["-c", script], entrypoint=["sh"], user=ANYONE)
    assert said.split() == ["54321"]


def test_without_a_spec_it_says_what_it_wants(image: Images) -> None:
    with container(image("trl", "cpu"), [], user=ANYONE) as worker:
        assert worker.wait() == 2
        _, said = worker.get_logs()
    assert b"--spec" in said


@ALL
def test_its_history_tells_no_address_and_no_secret(
    engine: DockerClient, image: Images, made: Recipe
) -> None:
    found = engine.images.get(image(made.backend, made.flavour))
    told = json.dumps([found.history(), found.attrs["Config"]["Env"]])
    assert not re.search(r"https?://|_proxy|hf_token|password", told, re.IGNORECASE)


def test_it_holds_no_cache_no_secret_and_not_the_hosts_ca(
    engine: DockerClient, image: Images
) -> None:
    """Of the smallest image; the others are made by the same lines of the same Dockerfile.

    That its files add up to the size of its layers means that no layer hides a file of another.
    """
    leftovers, certificates, size = [], {}, 0
    for entry, file in files(engine, image("trl", "cpu")):
        size += entry.size
        if LEFTOVER.search(entry.name) and not DEBIANS_OWN.match(entry.name):
            leftovers.append(entry.name)
        if entry.name.endswith((".pem", ".crt")):
            certificates[entry.name] = set(CERTIFICATE.findall(file.read()))
    assert size == pytest.approx(engine.images.get(image("trl", "cpu")).attrs["Size"], rel=0.005)
    assert leftovers == []

    ours = {
        one for name, found in certificates.items() if name.startswith("usr/share") for one in found
    }
    assert ours, "Debian's own certificates are in the image"
    system = certificates["etc/ssl/certs/ca-certificates.crt"]
    assert system <= ours, "something was added to Debian's certificates"
    bundle = ca_bundle()
    # The host's Debian may know public authorities that the image's does not, and certifi does.
    public = {
        one
        for path in Path("/usr/share/ca-certificates").rglob("*.crt")
        for one in CERTIFICATE.findall(path.read_bytes())
    }
    private = set(CERTIFICATE.findall(bundle.read_bytes())) - ours - public if bundle else set()
    assert not any(private & found for found in certificates.values())


def files(engine: DockerClient, image: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Every regular file of an image, without writing gigabytes down first."""
    made = engine.containers.create(image)
    try:
        stream = io.BufferedReader(Chunks(cast(Iterator[bytes], made.export())))
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isfile() else None
                if file is not None:
                    yield entry, file
    finally:
        made.remove()


class Chunks(io.RawIOBase):
    """A file that is read from pieces as they arrive."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._rest = self._rest or next(self._pieces, b"")
        taken = min(len(buffer), len(self._rest))
        buffer[:taken], self._rest = self._rest[:taken], self._rest[taken:]
        return taken
