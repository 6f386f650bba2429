"""Building images: a client that has BuildKit, a base to build on, a context, and the build."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from aligntune.errors import ImageError
from aligntune_run.host.docker_client import engine_errors
from aligntune_run.images.indexes import ca_bundle, find_torch_wheel, index_settings
from aligntune_run.images.recipes import Recipe
from aligntune_run.subprocesses import Finished, Say, capture, stream

if TYPE_CHECKING:
    from docker import DockerClient

DEBIAN = "debian:bookworm-slim"
BUILT_IN = range(18, 23)
"""Versions of the docker client that have BuildKit built in; later ones need the buildx plugin."""

USUAL_FOLDERS = ("/usr/bin", "/usr/local/bin")
"""Searched besides PATH, because the first client on PATH may be one without BuildKit."""

REMEDIES = (
    (r"no space left on device", "Free some disk: `docker system prune`, `docker builder prune`"),
    (
        r"certificate verify failed|x509:|invalid peer certificate|UnknownIssuer|SSLError",
        "Set SSL_CERT_FILE to your proxy's CA bundle; the build gets it as a secret",
    ),
    (
        r"[Ff]ailed to lookup address|dns error|[Nn]ame or service not known"
        r"|[Tt]emporary failure (in name resolution|resolving)|no such host",
        "Builds have no working DNS or no network: check the engine's DNS and proxy settings",
    ),
    (
        r"[Hh]ash mismatch|DO NOT MATCH THE HASHES",
        "An index served another file than the lock names: check your mirror, then build again",
    ),
    (
        r"\+cpu.*(no wheels|not found|no version)|no version of torch==\S*\+cpu",
        "Say where torch's +cpu wheel is: --find-links FOLDER or --find-links URL",
    ),
)
"""What a failed build prints -> what to do about it."""


@dataclass(frozen=True)
class Client:
    """A docker command line client that can build with BuildKit."""

    path: Path
    engine: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The caller's variables, changed so that builds go to the engine at address ``engine``."""
        return {
            **os.environ,
            **({"DOCKER_HOST": self.engine} if self.engine else {}),
            "DOCKER_BUILDKIT": "1",
            "BUILDX_BUILDER": "default",  # the engine's own: another could not see local images
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
            "BUILDKIT_PROGRESS": "plain",
        }

    def build(self, arguments: Sequence[str | Path], say: Say) -> None:
        """Build; if that fails, raises ImageError with the lines that say why."""
        _checked(stream([self.path, "build", *arguments], say, env=self.environment))

    def has(self, image: str) -> bool:
        """Whether the engine has an image of this name."""
        return capture([self.path, "image", "inspect", image], env=self.environment).ok


def find_buildkit_client() -> Client:
    """The first docker client on this machine that has BuildKit.

    Raises:
        ImageError: none was found; it names the clients that were found and what each lacks.
    """
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *USUAL_FOLDERS]
    paths = dict.fromkeys(Path(folder, "docker") for folder in folders if folder)
    lacking: list[str] = []
    for path in filter(os.path.isfile, paths):  # isfile does not raise below an unreadable folder
        version = re.match(
            r"Docker version (\d+)\.\S*?(?=,|\s|$)", capture([path, "--version"]).out
        )
        if (version and int(version[1]) in BUILT_IN) or capture([path, "buildx", "version"]).ok:
            return Client(path)
        lacking.append(f"{path} ({version[0] if version else 'not Docker'}, no buildx plugin)")
    if lacking:
        raise ImageError(
            f"no docker client here has BuildKit: {'; '.join(lacking)}",
            "Install Docker's buildx plugin (package docker-buildx-plugin or docker-buildx)",
        )
    raise ImageError(
        "building needs a docker client, and there is none on the path",
        "Install one: package docker.io on Debian 12, else docker-ce-cli with docker-buildx-plugin",
    )


@engine_errors()
def build(
    client: DockerClient,
    recipe: Recipe,
    *,
    base: str = "auto",
    find_links: Sequence[str] = (),
    say: Say,
) -> str:
    """Build an image and tag it as ``recipe.ref`` and ``recipe.alias``; returns its id.

    Where only code changed, this takes seconds: the engine's build cache has all other layers.

    Args:
        client: the engine to build in.
        base: a Debian 12 image to build on; ``debootstrap`` makes one; ``auto`` takes
            :data:`DEBIAN` if it is here or can be pulled, and otherwise makes one.
        find_links: folders or addresses with the wheels that no index has.
        say: called with each line of the build's output.

    Raises:
        ImageError: something is missing, or the build failed; with its last lines and a remedy.
        EngineError: the engine stopped answering.
    """
    cli = replace(find_buildkit_client(), engine=_address(client))
    with _context(recipe, find_links) as (folder, options):
        if base != "auto" or not cli.has(recipe.base_ref):
            system = _system(cli, recipe, base, say)
            say(f"building {recipe.base_ref} on {system}")
            shared = [f"--build-arg=BASE={system}", "--target=torch", f"--tag={recipe.base_ref}"]
            cli.build([*options, *shared, folder], say)
        say(f"building {recipe.ref} on {recipe.base_ref}")
        labels = [f"--label={name}={value}" for name, value in recipe.labels.items()]
        tags = [f"--tag={recipe.ref}", f"--tag={recipe.alias}"]
        bases = [f"--build-arg=BASE={recipe.base_ref}", f"--build-arg=TORCH={recipe.base_ref}"]
        cli.build([*options, *bases, *labels, *tags, folder], say)
    return str(client.images.get(recipe.ref).id)


def _address(client: DockerClient) -> str:
    """The engine's address as docker's command line takes it."""
    api = client.api
    socket = getattr(api.get_adapter(api.base_url), "socket_path", None)
    return f"unix://{socket}" if socket else str(api.base_url)


@contextmanager
def _context(recipe: Recipe, find_links: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
    """A folder with what the Dockerfile copies, and the options of every build in it."""
    wheels = find_torch_wheel(recipe.lock, find_links)
    images, backend = recipe.sources.images, f"images/{recipe.backend}"
    with tempfile.TemporaryDirectory(prefix="aligntune-build-") as name:
        folder = Path(name, "context")
        shutil.copytree(images / "base", folder / "images/base")
        shutil.copytree(images / recipe.backend, folder / backend)
        shutil.copytree(
            recipe.sources.shared,
            folder / "shared/aligntune",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        shutil.copy(images / "Dockerfile", folder / "images")
        (folder / "wheels").mkdir()
        for wheel in wheels.files:
            shutil.copy(wheel, folder / "wheels")

        options = [
            f"--file={folder / 'images/Dockerfile'}",
            f"--build-arg=BACKEND={recipe.backend}",
            f"--build-arg=FLAVOUR={recipe.flavour}",
        ]
        options += [f"--build-arg={name}" for name in _proxies()]
        if bundle := ca_bundle():
            options.append(f"--secret=id=ca,src={bundle}")
        if settings := index_settings(wheels):
            secret = Path(name, "index")
            secret.write_text(settings)
            options.append(f"--secret=id=index,src={secret}")
        yield folder, options


def _proxies() -> list[str]:
    """The proxy variables that are set; Docker passes them and keeps them out of images."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
    return [name for upper in names for name in (upper, upper.lower()) if os.environ.get(name)]


def _system(cli: Client, recipe: Recipe, base: str, say: Say) -> str:
    """The Debian to build on: one that the engine has or can pull, otherwise one made here."""
    if base not in ("auto", "debootstrap"):
        return base
    made = f"aligntune-os:bookworm-{sha256(_packages(recipe).encode()).hexdigest()[:12]}"
    if base == "debootstrap":
        if not cli.has(made):
            _debootstrap(cli, recipe, made, say)
        return made
    here = next(filter(cli.has, (DEBIAN, made)), None)
    if here is not None:
        return here
    say(f"pulling {DEBIAN}")
    pulled = stream([cli.path, "pull", DEBIAN], say, env=cli.environment)
    if pulled.ok:
        return DEBIAN
    say(f"{DEBIAN} cannot be pulled, so a base is made with debootstrap")
    try:
        _debootstrap(cli, recipe, made, say)
    except ImageError as error:
        refusal = (pulled.out.splitlines() or ["no reason given"])[-1]
        raise ImageError(
            f"{DEBIAN} cannot be pulled ({refusal}), and {error.what}", error.remedy
        ) from None
    return made


def _debootstrap(cli: Client, recipe: Recipe, name: str, say: Say) -> None:
    program = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None or os.geteuid() != 0:
        lack = "is not installed" if program is None else "needs root"
        raise ImageError(
            f"debootstrap, which would make a base image, {lack}",
            "Name a local Debian 12 image with --base IMAGE, make the registry reachable, "
            + ("or install debootstrap" if program is None else "or build once as root"),
        )
    with tempfile.TemporaryDirectory(prefix="aligntune-os-") as folder:
        root, archive = Path(folder, "root"), Path(folder, "root.tar")
        include = f"--include={','.join(_packages(recipe).split())}"
        _checked(stream([program, "--variant=minbase", include, "bookworm", root, *_mirror()], say))
        leftovers = ("var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*", "debootstrap")
        excluded = [f"--exclude=./{pattern}" for pattern in leftovers]
        _checked(capture(["tar", "-C", root, *excluded, "-cf", archive, "."], timeout=600))
        _checked(capture([cli.path, "import", archive, name], env=cli.environment, timeout=600))


def _packages(recipe: Recipe) -> str:
    return (recipe.sources.images / "base/packages.txt").read_text()


def _mirror(folder: Path = Path("/etc/apt")) -> list[str]:
    """The Debian mirror that this machine's apt uses, as arguments; empty on other systems."""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    text = "\n".join(
        path.read_text()
        for path in files
        if path.suffix in (".list", ".sources") and path.is_file()
    )
    found = re.search(
        r"^(?:URIs:|deb(?: \[.*?\])?)\s*(https?://\S+/debian/?)(?:\s|$)", text, re.MULTILINE
    )
    return [found[1]] if found else []


def _checked(done: Finished) -> None:
    """Raises ImageError with a program's last output if it failed."""
    if done.ok:
        return
    said = [line for line in f"{done.out}\n{done.err}".splitlines() if line.strip()]
    remedies = (remedy for cause, remedy in REMEDIES if re.search(cause, "\n".join(said)))
    telling = [
        line for line in said if re.search(r"error|fail|E:|no (space|version|wheel)", line, re.I)
    ] or said
    raise ImageError(
        f"building failed: {Path(done.argv[0]).name} ended with {done.code}:\n  "
        + "\n  ".join(telling[-6:]),
        next(remedies, "The lines above say why; `aligntune-run images build` shows all of them"),
    )
