"""Real runs: the command as a subprocess of an ordinary user, in real images, on tiny models.

As root, everything is done as a user that no image knows: what works for a stranger works for all.
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.containers.jobs import container, output_of
from tests.containers.sharing import made_once

ROOT = Path(__file__).resolve().parents[2]
STRANGER = 1234
ROOTED = os.geteuid() == 0
UID = STRANGER if ROOTED else os.getuid()
GID = STRANGER if ROOTED else os.getgid()
SOCKET = Path(os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or "/var/run/docker.sock")
TIMEOUT = 600
NOT_NEEDED = ("mypy*", "hypothesis*", "pip*", "ruff*", "setuptools*")

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"

TRACEBACK = "Traceback (most recent call last)"
TRAINING = {
    "max_steps": 24,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "learning_rate": 3e-3,
    "schedule": "linear",
    "warmup": 0,
    "logging_steps": 4,
    "precision": "fp32",
}
"""Enough for a tiny model to learn something in a second."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and the run directory it was given."""

    code: int
    out: str
    err: str
    run: Path

    @property
    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "run.json").read_text(encoding="utf-8")))

    @property
    def result(self) -> dict[str, Any]:
        assert self.code == 0, self.report
        return dict(self.record["result"])

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind, in order."""
        lines = (self.run / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    @property
    def losses(self) -> list[float]:
        """The training losses that were logged, in order."""
        return [step["loss"] for step in self.events("step") if "loss" in step]

    @property
    def report(self) -> str:
        """Everything the user was told, and the trainer's log."""
        log = self.run / "train.log"
        tail = log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else ""
        return f"code {self.code}\n{self.out}\n{self.err}\n{tail}"


@dataclass
class Bench:
    """A folder of the stranger's with models, data and runs, and the command to train with."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.program = made_once("program", copy_all)
        self.python, home = find_python(self.program / "python")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ALIGNTUNE_", "HF_", "XDG_", "PYTHON"))
        }
        self.environment = {
            **kept,
            **home,
            "HOME": str(self.folder / "home"),
            "ALIGNTUNE_CACHE_DIR": str(self.folder / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        (self.folder / "home").mkdir()
        for name in ("models", "data", "runs"):
            (self.folder / name).mkdir()
        self.give_away()

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def give_away(self) -> None:
        """What the tests have made is the stranger's."""
        if ROOTED:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, UID, GID, follow_symlinks=False)

    def write(self, name: str, rows: Sequence[Any] | str) -> Path:
        """A data file: rows as JSON lines, or a text as it is."""
        path = self.folder / "data" / name
        lines = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(lines, encoding="utf-8")
        return path

    def start(
        self,
        *words: str | Path,
        environment: Mapping[str, str] | None = None,
        program: Path | None = None,
        called: Sequence[str | Path] = ("-m", "aligntune_run"),
        folder: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start Python in the stranger's name; ``called`` is the command unless it is a script."""
        code = program or self.program
        paths = [code / "launcher", code / "shared", self.program / "site"]
        return subprocess.Popen(
            [str(self.python), *map(str, (*called, *words))],
            env={
                **self.environment,
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                **(environment or {}),
            },
            cwd=folder or self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            user=UID if ROOTED else None,
            group=GID if ROOTED else None,
            extra_groups=[SOCKET.stat().st_gid] if ROOTED else None,
        )

    def output(self) -> Path:
        """A run directory that nobody has used."""
        self.count += 1
        return self.folder / "runs" / str(self.count)

    def run(
        self,
        *words: str | Path,
        run: Path | None = None,
        environment: Mapping[str, str] | None = None,
        program: Path | None = None,
    ) -> Ended:
        """Run the command to its end, as the user would."""
        with self.start(*words, environment=environment, program=program) as command:
            try:
                out, err = command.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                command.kill()
                raise
        return Ended(command.returncode, out, err, run or self.folder / "none")

    def script(self, script: Path, environment: Mapping[str, str], timeout: float) -> Ended:
        """Run a Python program in its own folder, as the user would."""
        folder = script.parent
        with self.start(called=[script], folder=folder, environment=environment) as program:
            try:
                out, err = program.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                program.kill()
                raise
        return Ended(program.returncode, out, err, self.folder / "none")

    def train(
        self,
        model: str | Path,
        data: str | Path,
        *words: str | Path,
        algo: str = "sft",
        training: Mapping[str, Any] = TRAINING,
        **how: Any,
    ) -> Ended:
        """``aligntune-run --algo ...`` into a new run directory, on the CPU."""
        run = self.output()
        named = self.models / model if (self.models / model).exists() else model
        needed = ["--algo", algo, "--model", named, "--dataset", data, "--output", run]
        fixed = ["--gpus", "0", "--engine", "docker", "--pull", "never"]
        sets = [f"--set=training.{key}={value}" for key, value in training.items()]
        return self.run(*needed, *fixed, *sets, *words, run=run, **how)


def copy_all(folder: Path) -> None:
    """The command, with the packages and the Python that it needs, where everybody may read it.

    All is compiled, as the runs' own user cannot write here.
    """
    compileall.compile_dir(copy_program(folder), quiet=1)
    own = shutil.ignore_patterns(*NOT_NEEDED)
    shutil.copytree(sysconfig.get_path("purelib"), folder / "site", ignore=own)
    copy_python(folder / "python")


def copy_program(folder: Path) -> Path:
    """The launcher, the worker and the recipes."""
    for name in ("launcher", "shared", "images"):
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=caches)
    return folder


def copy_python(folder: Path) -> None:
    """This Python; a copy, as it may lie where nobody else may look."""
    base = Path(sys.base_prefix)
    unneeded = ("site-packages", "dist-packages", "test", "idlelib", "*.a")
    library = Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns(*unneeded, "config-*")
    shutil.copytree(library, folder / "lib" / PYTHON, ignore=ignored)
    for shared in (base / "lib").glob(f"lib{PYTHON}*.so*"):
        shutil.copy(shared, folder / "lib")
    (folder / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), folder / "bin" / PYTHON)


def find_python(folder: Path) -> tuple[Path, dict[str, str]]:
    """The copied Python in a folder, and the variables it needs."""
    variables = {"PYTHONHOME": str(folder), "LD_LIBRARY_PATH": str(folder / "lib")}
    return folder / "bin" / PYTHON, variables


def in_image(image: str, script: Path, bench: Bench, *words: str | Path) -> str:
    """What a Python script prints in an image, without network, with the bench where it is."""
    return output_of(
        image,
        [script, *words],
        entrypoint=["python"],
        user=f"{UID}:{GID}",
        network="none",
        volumes={bench.folder: (str(bench.folder), "rw")},
        environment={"HF_HUB_OFFLINE": "1"},
    )


def bare(image: str, bench: Bench, spec: Mapping[str, Any], program: Sequence[str] = ()) -> Ended:
    """``docker run IMAGE --spec FILE``, with no launcher; ``program`` instead of the image's."""
    run = bench.output()
    run.mkdir()
    (run / "spec.yaml").write_text(json.dumps(spec), encoding="utf-8")
    bench.give_away()
    with container(
        image,
        ["--spec", "/run-dir/spec.yaml"],
        entrypoint=list(program) or None,
        user=f"{UID}:{GID}",
        network="none",
        volumes={run: ("/run-dir", "rw"), bench.folder: (f"/in{bench.folder}", "ro")},
    ) as worker:
        code = worker.get_wrapped_container().wait(timeout=TIMEOUT)["StatusCode"]
        out, err = worker.get_logs()
        return Ended(code, out.decode(), err.decode(), run)


def wait_for_step(run: Path, step: int) -> None:
    """Until a run has told of ``step``."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        if any(json.loads(line).get("step", 0) >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.05)
    raise AssertionError(f"{run} never came to step {step}")
