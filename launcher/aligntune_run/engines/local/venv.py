"""The worker's environment without containers: a venv made from an image's own lock.

It is kept in the user's cache under the lock's hash, so it is made once and never changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from aligntune.errors import AligntuneError, EngineError, ImageError
from aligntune_run.engines.base import Say
from aligntune_run.images.indexes import find_torch_wheel
from aligntune_run.images.recipes import Recipe
from aligntune_run.subprocesses import Finished, capture, stream

PYTHON = (3, 11)
"""The Python that every lock is made for."""

COMPLETE = "aligntune-complete"
"""Written last: a venv without it is incomplete and is made again."""

PACKAGE = re.compile(r"(Collecting |Processing \S*/)(?P<name>[^=/-]+)(==|-)(?P<version>[^\s-]+)")
"""pip's line for a package from an index, and from a file."""

DROPPED = ("PYTHON*", "ALIGNTUNE_*", "VIRTUAL_ENV")
"""Variables of the caller that would change what the worker imports or reads."""


def make_venv(
    made_of: Recipe,
    venv: Path,
    say: Say,
    environment: Mapping[str, str],
    find_links: Sequence[str] = (),
) -> None:
    """Make the venv that a lock describes. Afterwards it is complete or does not exist.

    Raises:
        EngineError: Python of the lock's version, the network, or disk space is missing.
        ImageError: a package is unavailable, or is not the one in the lock.
    """
    complete = venv / COMPLETE
    if complete.exists():
        return
    venv.parent.mkdir(parents=True, exist_ok=True)
    with _locked(venv.with_name(f"{venv.name}.lock"), say):
        if complete.exists():
            return
        python = find_python()
        wheels = find_torch_wheel(made_of.lock, find_links)
        places = [str(path.parent) for path in wheels.files] + list(wheels.urls)
        shutil.rmtree(venv, ignore_errors=True)
        try:
            pip = _empty_venv(python, venv)
            _install(pip, made_of.lock, dict.fromkeys([*places, *find_links]), environment, say)
            complete.write_text(made_of.lock_hash)
        except BaseException:
            shutil.rmtree(venv, ignore_errors=True)
            raise


def find_python() -> str:
    """A Python of the lock's version: the running one, else the one on the path.

    Raises:
        EngineError: none is installed.
    """
    if sys.version_info[:2] == PYTHON:
        return sys.executable
    name = f"python{PYTHON[0]}.{PYTHON[1]}"
    found = shutil.which(name)
    if found and capture([found, "-c", "import venv"]).ok:
        return found
    this = f"{sys.version_info[0]}.{sys.version_info[1]}"
    raise EngineError(
        f"without a container engine, training needs {name}, and here is only Python {this}",
        f"Install it ({name} and {name}-venv by apt, or `uv python install`), or Docker",
    )


def _empty_venv(python: str, venv: Path) -> list[str]:
    """Make a venv; the command of a pip that installs into it."""
    own_pip = importlib.util.find_spec("pip") is not None
    made = capture(
        [python, "-m", "venv", *(["--without-pip"] if own_pip else []), venv], timeout=300
    )
    if not made.ok:
        said = " ".join(f"{made.out} {made.err}".split())
        raise _failure(said) or EngineError(
            f"cannot make a venv in {venv}: {said[-300:]}",
            f"On Debian install python{PYTHON[0]}.{PYTHON[1]}-venv",
        )
    inside = str(venv / "bin" / "python")
    return [sys.executable, "-m", "pip", "--python", inside] if own_pip else [inside, "-m", "pip"]


def _install(
    pip: Sequence[str],
    lock: Path,
    find_links: Iterable[str],
    environment: Mapping[str, str],
    say: Say,
) -> None:
    """Install exactly what a lock names, as the user's own pip settings say."""
    total = len(re.findall(r"^\S+==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    count = 0

    def report(line: str) -> None:
        nonlocal count
        if found := PACKAGE.match(line):
            count += 1
            say(f"package {count} of {total}: {found['name']} {found['version']}")
        elif line.startswith("Installing collected packages"):
            say(f"installing {total} packages")

    say(f"making an environment of {total} packages, once: {lock.parent.name} {lock.stem}")
    # What is imported is compiled on import; compiling everything would double the time.
    options = ["--no-deps", "--require-hashes", "--no-compile", "--no-input"]
    options += ["--disable-pip-version-check", "--progress-bar=off"]
    options += [f"--find-links={place}" for place in find_links]
    done = stream(
        [*pip, "install", *options, "-r", lock],
        report,
        env=without(environment, DROPPED) | {"PIP_USER": "0"},
    )
    if not done.ok:
        raise _failure(done.out) or _unknown(done)


def _unknown(done: Finished) -> EngineError:
    said = [line for line in done.out.splitlines() if "ERROR" in line] or done.out.splitlines()
    return EngineError(
        f"pip ended with {done.code}: {' '.join(said[-3:])}",
        "`aligntune-run doctor` checks the package index and the disk; then run the command again",
    )


def _failure(said: str) -> AligntuneError | None:
    """The error for the last output of pip or venv, if it is a known failure."""
    for sign, kind, what, remedy in FAILURES:
        if match := re.search(sign, said):
            return kind(what.format(*match.groups()), remedy)
    return None


FAILURES: tuple[tuple[str, type[AligntuneError], str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        EngineError,
        "no space left for the environment",
        "Free some, or set ALIGNTUNE_CACHE_DIR (and TMPDIR)",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        ImageError,
        "an index served a file with another hash than the lock's",
        "Check your mirror, and clear pip's cache: `pip cache purge`",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        EngineError,
        "the package index's certificate is not trusted",
        "Behind a proxy that inspects TLS, point PIP_CERT and SSL_CERT_FILE at its CA bundle",
    ),
    (
        r"NewConnectionError|NameResolutionError|name resolution|Network is unreachable"
        r"|ConnectTimeout|ReadTimeout|ProxyError|Connection (?:refused|reset|timed out)",
        EngineError,
        "the package index cannot be reached",
        "Check the network, or point pip at a reachable index (PIP_INDEX_URL, pip.conf)",
    ),
    (
        r"No matching distribution found for (\S+\+cpu)",
        ImageError,
        "no wheel of {} was found, which the public index does not have",
        "Say where it is: --find-links FOLDER or --find-links URL (PyTorch's own CPU index)",
    ),
    (
        r"No matching distribution found for (\S+)",
        ImageError,
        "the package index has no {}",
        "Use an index, or a mirror, that is up to date",
    ),
)
"""Sign in what pip prints -> class, what happened, what to do."""


@contextlib.contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    """Hold a file lock; the kernel releases it however this program ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that is making the same environment")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def without(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The environment without the variables of these names; ``PYTHON*`` matches a prefix."""
    dropped = re.compile("|".join(re.escape(name).replace(r"\*", ".*") for name in names))
    return {name: value for name, value in environment.items() if not dropped.fullmatch(name)}
