"""Refresh locks and ``facts.json`` together: ``python images/refresh.py [trl|unsloth|all]``.

A lock is compiled from its ``requirements.in``. It holds a hash for every file and no index's
address. The facts are what the image that is then built reports about itself. Both are committed.
Needs uv, packaging, an engine, and for the cpu flavour torch's ``+cpu`` wheel.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import docker

from aligntune_run.images import Recipe, build, images_dir, recipe
from aligntune_run.images.indexes import find_torch_wheel
from aligntune_run.images.recipes import FLAVOURS
from aligntune_run.subprocesses import capture

IMAGES = images_dir()
PLATFORM = ("--python-version=3.11", "--python-platform=x86_64-manylinux_2_28")
QUIET = ("--quiet", "--no-header", "--no-emit-index-url", "--no-emit-find-links")
STEPS: tuple[tuple[str, str, str | None], ...] = (
    ("unsloth", "cuda", None),
    ("base", "cuda", "unsloth/cuda.lock"),
    ("trl", "cuda", "base/cuda.lock"),
    ("base", "cpu", "base/cuda.lock"),
    ("trl", "cpu", "base/cpu.lock"),
)
"""Folder, flavour, and the lock it must agree with: the base is in every image the same, so the
backend that leaves the least freedom comes first."""
BARE_MACHINE = ("--python-version=3.12", *PLATFORM[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backend", choices=["trl", "unsloth", "all"], nargs="?", default="all")
    parser.add_argument("--find-links", action="append", default=[], metavar="DIR")
    parser.add_argument("--upgrade", action="store_true", help="take newer versions where allowed")
    parser.add_argument("--facts-only", action="store_true", help="leave the locks alone")
    asked = parser.parse_args()
    wanted = {"trl", "unsloth"} if asked.backend == "all" else {asked.backend}
    if not asked.facts_only:
        for folder, flavour, agrees_with in STEPS:
            if folder in wanted | {"base"}:
                print(f"locking {folder} {flavour}")
                lock(folder, flavour, agrees_with, asked.find_links, asked.upgrade)
        print("locking the launcher for tests/gpu")
        lock_launcher(asked.upgrade)
    for backend in sorted(wanted):
        refresh_facts(backend, asked.find_links)


def lock(
    folder: str, flavour: str, agrees_with: str | None, find_links: Sequence[str], upgrade: bool
) -> None:
    """Compile one lock; versions in it are kept where they still fit, unless upgrading."""
    path = IMAGES / folder / f"{flavour}.lock"
    options = ["--generate-hashes", f"--output-file={path.relative_to(IMAGES)}"]
    if agrees_with:
        options.append(f"--constraints={agrees_with}")
    if (IMAGES / folder / "overrides.txt").is_file():
        options.append(f"--overrides={folder}/overrides.txt")
    if upgrade:
        options.append("--upgrade")
    if flavour == "cpu":  # 2.13.0+cpu counts as newer than 2.13.0, so it is what gets locked
        options += [f"--find-links={place}" for place in find_links]
    uv_compile(f"{folder}/requirements.in", *options)
    path.write_text(with_hashes(path.read_text(), find_links))


def lock_launcher(upgrade: bool) -> None:
    """Compile the lock of what the launcher imports, which is not the whole of any image."""
    uv_compile(
        "../pyproject.toml",
        "--generate-hashes",
        "--no-deps",
        "--constraints=trl/cuda.lock",
        "--output-file=../tests/gpu/host.lock",
        *(["--upgrade"] if upgrade else []),
        platform=BARE_MACHINE,
    )


def with_hashes(text: str, find_links: Sequence[str]) -> str:
    """The lock with the hashes that uv leaves out: those of wheels from a folder."""

    def complete(entry: re.Match[str]) -> str:
        name, version = entry[1], entry[2]
        wheels = [
            wheel for place in find_links for wheel in Path(place).glob(f"{name}-{version}-*.whl")
        ]
        if not wheels:
            sys.exit(f"{name} {version} has no hash and is in no --find-links folder")
        hashes = (f" \\\n    --hash=sha256:{sha256(w.read_bytes()).hexdigest()}" for w in wheels)
        return f"{name}=={version}{''.join(hashes)}\n"

    return re.sub(r"^([\w.-]+)==([\w.+]+)\n", complete, text, flags=re.MULTILINE)


def refresh_facts(backend: str, find_links: Sequence[str]) -> None:
    """Build a backend's images, ask them what they can do, write it, and label them with it."""
    path = IMAGES / backend / "facts.json"
    old = json.loads(path.read_text()) if path.is_file() else {}
    if not old:
        write(path, {"flavours": {}})
    client = docker.from_env()
    flavours = [one for one in FLAVOURS if (IMAGES / backend / f"{one}.lock").is_file()]
    facts: dict[str, Any] = {}
    for flavour in flavours:
        made = recipe(backend, flavour)
        image = build(client, made, find_links=find_links, say=print)
        print(f"asking {made.ref}")
        said = ask(client, image)
        of_flavour = {
            **said.pop("flavour"),
            "image_size": int(client.images.get(image).attrs["Size"]),
            "download_size": download_size(made, find_links),
        }
        differing = {name for name, value in said.items() if facts.get(name, value) != value}
        if differing:
            sys.exit(f"the flavours of {backend} differ in {', '.join(differing)}")
        facts = {**said, "flavours": {**facts.get("flavours", {}), flavour: of_flavour}}
    write(path, facts)
    for flavour in flavours:
        build(client, recipe(backend, flavour), find_links=find_links, say=print)


def ask(client: docker.DockerClient, image: str) -> dict[str, Any]:
    """What an image reports about itself, confined as in a real run."""
    said = client.containers.run(
        image,
        entrypoint=["python", "-m", "aligntune.worker.image_facts"],
        user="1234:1234",
        read_only=True,
        network_mode="none",
        cap_drop=["ALL"],
        tmpfs={"/tmp": "exec,mode=1777", "/cache": "exec,mode=1777"},
        remove=True,
    )
    return dict(json.loads(said))


def download_size(of: Recipe, find_links: Sequence[str]) -> int:
    """Bytes of the files that a build of this lock fetches."""
    lines = (IMAGES / of.backend / f"{of.flavour}.lock").read_text().splitlines()
    here = find_torch_wheel(of.lock, find_links).files
    local = {f"{wheel.name.split('-')[0]}==" for wheel in here}
    pins = [line.split()[0] for line in lines if re.match(r"[\w.-]+==", line)]
    listed = Path(of.lock).with_suffix(".pins")
    listed.write_text("\n".join(pin for pin in pins if not pin.startswith(tuple(local))))
    try:
        text = uv_compile(str(listed.relative_to(IMAGES)), "--format=pylock.toml", "--no-deps")
    finally:
        listed.unlink()
    sizes = [wheel.stat().st_size for wheel in here]
    for package in tomllib.loads(text)["packages"]:
        wheels = [wheel for wheel in package.get("wheels", ()) if fits(wheel["url"])]
        sizes.append(wheels[0]["size"] if wheels else 0)
    return sum(sizes)


def fits(url: str) -> bool:
    """Whether Python 3.11 takes this wheel; uv has seen to the platform."""
    python, abi = url.rsplit("-", 3)[-3:-1]
    return "cp311" in python or "py3" in python or abi == "abi3"


def uv_compile(requirements: str, *options: str, platform: Sequence[str] = PLATFORM) -> str:
    done = capture(
        ["uv", "pip", "compile", "--directory", IMAGES, *QUIET, *platform, *options, requirements],
        timeout=600,
    )
    if not done.ok:
        sys.exit(done.err)
    return done.out


def write(path: Path, facts: dict[str, Any]) -> None:
    """Readable: lists of names are filled paragraphs, not a line a name."""

    def fill(names: re.Match[str]) -> str:
        text, indent = " ".join(names[3].split()), names[1]
        if len(indent + names[2] + text) < 96:
            return f"{indent}{names[2]}[{text}]"
        inner = f"{indent}  "
        lines = textwrap.fill(
            text, 100, initial_indent=inner, subsequent_indent=inner, break_on_hyphens=False
        )
        return f"{indent}{names[2]}[\n{lines}\n{indent}]"

    text = json.dumps(facts, indent=2)
    path.write_text(re.sub(r'(?m)^( *)(".*": )\[\s+("[^\[\]{}]*?)\s+\]', fill, text) + "\n")


if __name__ == "__main__":
    main()
