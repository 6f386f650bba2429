"""How a backend's Python is started: right here, from folders of packages, or in its image."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aligntune.contract import CACHE_DIR

ROOT = Path(__file__).resolve().parents[2]

LABEL = "aligntune.gpu-kit"
"""Of every container that the kit starts, with the work folder as its value."""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
}


class StepError(Exception):
    """A program that a step needs failed; the message is one line and names its log."""


@dataclass(frozen=True)
class Stack:
    """A backend's environment.

    Attributes:
        backend: ``trl`` or ``unsloth``.
        gpu: whether its programs use the GPU; else they see none.
        work: the folder that its programs read and write, at the same path everywhere.
        python: what starts its Python, without an image.
        packages: folders of packages for ``python``, first on its path.
        image: the image it runs in; None for a Python here.
    """

    backend: str
    gpu: bool
    work: Path
    python: str = "python3"
    packages: tuple[str, ...] = ()
    image: str | None = None

    @property
    def worker(self) -> tuple[str, ...]:
        """What comes after ``python`` to start the worker.

        Without a GPU, Unsloth's own CPU mode would be stock TRL, so the worker is started through
        the rewritten trainers that a GPU would get (tests/containers/unsloth_gpu_path.py).
        """
        if self.backend == "unsloth" and not self.gpu:
            return (str(ROOT / "tests" / "containers" / "unsloth_gpu_path.py"),)
        return ("-m", "aligntune.training")

    def start(
        self,
        words: Sequence[object],
        log: Path,
        variables: Mapping[str, str] | None = None,
        piped: bool = False,
    ) -> Job:
        """Start ``python WORDS``; its output goes to ``log``, with ``piped`` its stdout to us."""
        variables = {**self._variables(), **(variables or {})}
        name = f"aligntune-gpu-kit-{uuid.uuid4().hex[:12]}" if self.image else None
        program = [self.python]
        environment = {**os.environ, **variables}
        if self.image and name:
            program = self._docker(name, self.image, variables, piped)
            environment = dict(os.environ)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*program, *map(str, words)],
                env=environment,
                cwd=self.work,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                text=True,
            )
        return Job(process, log, name)

    def run(
        self,
        words: Sequence[object],
        log: Path,
        limit: float,
        variables: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Run ``python WORDS`` to its end; the lines that it printed to stdout.

        Raises:
            StepError: it ended with another code than 0, or took longer than ``limit`` seconds.
        """
        job = self.start(words, log, variables, piped=True)
        name = Path(str(words[0])).name
        try:
            out, _ = job.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            job.send(signal.SIGKILL)
            job.process.communicate()
            raise StepError(f"{name} took longer than {limit:.0f} s: {last_line(log)}") from None
        if code := job.process.returncode:
            raise StepError(f"{name} ended with code {code}: {last_line(log)}")
        return out.splitlines()

    def _variables(self) -> dict[str, str]:
        caches = self.work / "caches"
        variables = {
            **OFFLINE,
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "PYTHONPATH": str(ROOT),
            "TOKENIZERS_PARALLELISM": "false",
        }
        if self.gpu:
            variables["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
        else:
            # Several at once share few cores, where threads that wait for each other cost most.
            variables |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        if self.image is None:
            ours = (ROOT, ROOT / "shared", ROOT / "launcher", ROOT / "images" / self.backend)
            variables["PYTHONPATH"] = os.pathsep.join([*self.packages, *map(str, ours)])
        return variables

    def _docker(
        self, name: str, image: str, variables: Mapping[str, str], piped: bool
    ) -> list[str]:
        words = ["docker", "run", "--rm", "--name", name, f"--label={LABEL}={self.work}"]
        words += ["--network=none", "--cap-drop=ALL", "--read-only", "--tmpfs=/tmp:exec,mode=1777"]
        words += ["--shm-size=2g", f"--user={os.getuid()}:{os.getgid()}", "--entrypoint=python"]
        caches = self.work / "caches"
        caches.mkdir(exist_ok=True)
        words += [f"--volume={ROOT}:{ROOT}:ro", f"--volume={self.work}:{self.work}"]
        words += [f"--volume={caches}:{CACHE_DIR}"]
        words += ["--interactive"] if piped else []
        words += ["--gpus=all"] if self.gpu else []
        for key, value in variables.items():
            words += ["--env", f"{key}={value}"]
        return [*words, f"--workdir={self.work}", image]


@dataclass(frozen=True)
class Job:
    """A started program; ``container`` is the name of the container that it runs in, if any."""

    process: subprocess.Popen[str]
    log: Path
    container: str | None = None

    def wait(self, limit: float) -> int:
        """Its exit code; negative where it was cut off after ``limit`` seconds, or killed."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.process.wait()
            return -int(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program itself, not to the client of its container."""
        if self.container:
            words = ["docker", "kill", f"--signal={number.name}", self.container]
            subprocess.run(words, check=False, capture_output=True)
        else:
            self.process.send_signal(number)


def remove_containers(work: Path) -> None:
    """Remove what a step that was cut off left running."""
    if shutil.which("docker") is None:
        return
    label = f"label={LABEL}={work}"
    listed = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", label], capture_output=True, text=True
    )
    if names := listed.stdout.split():
        subprocess.run(["docker", "rm", "--force", *names], check=False, capture_output=True)


def last_line(log: Path) -> str:
    """The last line of a log that says something, and where the log is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"{said[:200]} ({log})"
