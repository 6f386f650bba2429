"""Process: the same worker without containers, in a venv made from the image's own lock.

For machines that have no container engine. The venv and the worker's code are kept in the user's
cache under the hash of what they hold, so each is made once and never changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from aligntune.errors import AligntuneError, EngineError, ImageError
from aligntune_run.engines import GRACE_SECONDS, Command, Exit, Phase, Say
from aligntune_run.engines.container import OFFLINE, TOKEN_VARIABLES
from aligntune_run.host import Host
from aligntune_run.images.packages import find_torch_wheel
from aligntune_run.images.recipes import Recipe, Sources, recipe
from aligntune_run.plan import Plan
from aligntune_run.programs import Finished, capture, stream

PYTHON = (3, 11)
"""The Python that every lock is made for."""

COMPLETE = "aligntune-complete"
"""Written last: a venv without it was cut short and is made anew."""

PACKAGE = re.compile(r"(Collecting |Processing \S*/)(?P<name>[^=/-]+)(==|-)(?P<version>[^\s-]+)")
"""pip's line for a package of an index, and for a file."""

TAIL_BYTES = 8192

DROPPED = ("PYTHON*", "ALIGNTUNE_*", "VIRTUAL_ENV")
"""Variables of the caller that would change what the worker imports or reads."""


class ProcessEngine:
    """Runs plans as processes.

    Args:
        host: the machine, as probed.
        environment: the caller's, which the worker inherits but for what would change the run.
        find_links: folders or addresses with wheels that no index has.
        sources: recipes and code, if not this installation's own.
        agree: asked before the gigabytes of a venv are fetched, with their size in the question.
    """

    def __init__(
        self,
        host: Host,
        environment: Mapping[str, str] = os.environ,
        find_links: Sequence[str] = (),
        sources: Sources | None = None,
        agree: Callable[[str], bool] = lambda question: True,
    ) -> None:
        self._host = host
        self._environment = environment
        self._find_links = find_links
        self._sources = sources
        self._agree = agree

    def prepare(self, plan: Plan, say: Say) -> Plan:
        """Make the venv and lay out the worker's code, where they are not there yet.

        Raises:
            EngineError: there is no Python of the lock's version, no network, or no room.
            ImageError: a package cannot be had, or is not the one that the lock names, or the user
                did not agree.
        """
        self.make(self._recipe(plan), say)
        return plan

    def make(self, made_of: Recipe, say: Say) -> None:
        """Make a recipe's venv and lay out its code; see :meth:`prepare` for what it raises."""
        venv = self._venv(made_of)
        if not (venv / COMPLETE).exists():
            size = made_of.download_size
            download = f": {size / 1e9:.1f} GB to download" if size else ""
            if not self._agree(f"The environment {venv.name} is made here{download}. Go on?"):
                raise ImageError(
                    f"the environment {venv.name} is not here, and was not wanted",
                    "Agree, or use a container engine",
                )
        try:
            make_venv(made_of, venv, say, self._environment, self._find_links)
            lay_out_code(made_of, self._code(made_of))
        except OSError as error:
            raise EngineError(
                f"cannot write to the cache {self._host.cache}: {error.strerror}",
                "Make room there, or name another place with ALIGNTUNE_CACHE_DIR",
            ) from error

    def commands(self, plan: Plan) -> list[Command]:
        """The processes of a run, in order; ``environment`` is what is added to the caller's."""
        phases: tuple[Phase, ...] = ("fetch", "train") if plan.fetch else ("train",)
        return [Command(phase, self._arguments(plan, phase)) for phase in phases]

    def start(self, command: Command) -> ProcessWorker:
        """Start a worker in a session of its own: it outlives this program, and Ctrl-C in the
        terminal reaches this program only, which passes it on.

        Raises:
            EngineError: it cannot be started.
        """
        return ProcessWorker(command.arguments, self._environment)

    def variables(self, made_of: Recipe) -> dict[str, str]:
        """What makes a program of ours run in a recipe's venv; added to the caller's variables."""
        programs = self._venv(made_of) / "bin"
        return {
            "PATH": f"{programs}{os.pathsep}{self._environment.get('PATH', os.defpath)}",
            "PYTHONPATH": str(self._code(made_of)),
            "PYTHONUNBUFFERED": "1",
            "PYTHONNOUSERSITE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "UNSLOTH_DISABLE_STATISTICS": "1",
        }

    def _arguments(self, plan: Plan, phase: Phase) -> dict[str, Any]:
        made_of = self._recipe(plan)
        python = str(self._venv(made_of) / "bin" / "python")
        spec = str(Path(plan.run_dir) / "spec.yaml")
        command = [python, "-m", "aligntune.training", "--spec", spec]
        environment = self._caches(plan) | self.variables(made_of)
        dropped = list(DROPPED)
        if phase == "fetch":
            command.append("--fetch")
        else:
            dropped += TOKEN_VARIABLES
            environment |= OFFLINE | {"HF_TOKEN_PATH": os.devnull}
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(plan.choice.gpus)
            if plan.choice.gpus:
                environment["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
        return {
            "command": command,
            "environment": environment,
            "without": dropped,
            "working_dir": plan.run_dir,
        }

    def _caches(self, plan: Plan) -> dict[str, str]:
        """The caller's hub caches, and ours for what is compiled or processed."""
        own = self._host.cache / "worker"
        of_hub = any(wanted.startswith("dataset ") for wanted in plan.fetch)
        datasets = self._host.datasets_cache if of_hub else own / "huggingface" / "datasets"
        folders = {
            "HF_HUB_CACHE": self._host.hub_cache,
            "HF_DATASETS_CACHE": datasets,
            "HF_MODULES_CACHE": own / "huggingface" / "modules",
            "TRITON_CACHE_DIR": own / "triton",
            "TORCHINDUCTOR_CACHE_DIR": own / "inductor",
            "CUDA_CACHE_PATH": own / "cuda",
            "MPLCONFIGDIR": own / "matplotlib",
            "UNSLOTH_COMPILE_LOCATION": own / "unsloth_compiled_cache",
        }
        return {name: str(path) for name, path in folders.items()}

    def _recipe(self, plan: Plan) -> Recipe:
        return recipe(plan.choice.backend, plan.choice.flavour, self._sources)

    def _venv(self, made_of: Recipe) -> Path:
        name = f"{made_of.backend}-{made_of.flavour}-{made_of.lock_hash[:12]}"
        return self._host.cache / "envs" / name

    def _code(self, made_of: Recipe) -> Path:
        return self._host.cache / "code" / f"{made_of.backend}-{made_of.recipe_hash[:12]}"


def make_venv(
    made_of: Recipe,
    venv: Path,
    say: Say,
    environment: Mapping[str, str],
    find_links: Sequence[str] = (),
) -> None:
    """Make the venv that a lock describes; it is complete afterwards, or not there.

    Raises:
        EngineError: there is no Python of the lock's version, no network, or no room.
        ImageError: a package cannot be had, or is not the one that the lock names.
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
    """A Python of the lock's version: this one, else the one on the path.

    Raises:
        EngineError: there is none.
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
    return EngineError(f"pip ended with {done.code}: {' '.join(said[-3:])}")


def _failure(said: str) -> AligntuneError | None:
    """What pip's or venv's last words mean to the user, if that is known."""
    for sign, kind, what, remedy in FAILURES:
        if match := re.search(sign, said):
            return kind(what.format(*match.groups()), remedy)
    return None


FAILURES: tuple[tuple[str, type[AligntuneError], str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        EngineError,
        "there is no room for the environment",
        "Free some, or name another place with ALIGNTUNE_CACHE_DIR (and TMPDIR)",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        ImageError,
        "an index served another file than the lock names",
        "Check your mirror, and empty pip's cache: `pip cache purge`",
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
        "Check the network, or point pip at an index that can be (PIP_INDEX_URL, pip.conf)",
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
    """Hold a file lock; the kernel lets go of it however this program ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that is making the same environment")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lay_out_code(made_of: Recipe, folder: Path) -> None:
    """Put what an image holds of ours into ``folder``, whole or not at all.

    The launcher's own site-packages stay off the worker's path: their versions are not the lock's.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        beside = Path(name, "code")
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(made_of.sources.shared, beside / "aligntune", ignore=caches)
        shutil.copy(made_of.lock.with_name("aligntune_backend.py"), beside)
        try:
            beside.rename(folder)
        except OSError:
            if not folder.exists():  # else another run was quicker
                raise


def without(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The environment without the variables of these names; ``PYTHON*`` is all that begin so."""
    dropped = re.compile("|".join(re.escape(name).replace(r"\*", ".*") for name in names))
    return {name: value for name, value in environment.items() if not dropped.fullmatch(name)}


class ProcessWorker:
    """A started worker, the leader of its own session; what it prints goes to an unnamed file."""

    def __init__(self, arguments: Mapping[str, Any], caller: Mapping[str, str]) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self._kill_at = float("inf")
        self._killed = False
        self._oom_kills = oom_kills()
        self._exit: Exit | None = None
        try:
            self._process = subprocess.Popen(
                arguments["command"],
                env=without(caller, arguments["without"]) | arguments["environment"],
                cwd=arguments["working_dir"],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._output.close()
            raise EngineError(
                f"cannot start {arguments['command'][0]}: {error.strerror}"
            ) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, seconds: float) -> Exit | None:
        """How it ended, or None if it still runs after so many seconds."""
        if self._exit is None:
            left = self._kill_at - time.monotonic()
            try:
                code = self._process.wait(max(min(seconds, left), 0))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= self._kill_at:
                    self.kill()
                return None
            self._exit = self._finish(code)
        return self._exit

    def stop(self) -> None:
        """Ask it to checkpoint and end; :meth:`wait` ends it after :data:`GRACE_SECONDS`.

        Only the leader is told, as in a container: were its data loaders told as well, it would
        find them gone before it has written its checkpoint.
        """
        self._kill_at = min(self._kill_at, time.monotonic() + GRACE_SECONDS)
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, now."""
        self._kill_at = float("inf")
        if self._process.poll() is None:
            self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _finish(self, code: int) -> Exit:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what a container's end would end too
        with self._output as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            output = file.read().decode(errors="replace")
        now = oom_kills()
        counted = now is not None and self._oom_kills is not None and now > self._oom_kills
        killed = self._killed and code == -signal.SIGKILL
        by_kernel = code == -signal.SIGKILL and not killed and counted
        return Exit(128 - code if code < 0 else code, by_kernel, output, killed)


def oom_kills() -> int | None:
    """How often the kernel killed for want of memory in this cgroup; None where it does not say."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    places = [Path("/proc/vmstat")]  # the whole machine's, where the cgroup keeps no count
    for group in groups:
        number, controllers, path = group.split(":", 2)
        if number == "0":
            places.insert(0, Path("/sys/fs/cgroup", path.lstrip("/"), "memory.events"))
        elif "memory" in controllers.split(","):
            folder = Path("/sys/fs/cgroup/memory", path.lstrip("/"))
            places.insert(0, folder / "memory.oom_control")
    for place in places:
        with contextlib.suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", place.read_text(), re.MULTILINE):
                return int(found[1])
    return None
