"""Process: the same worker without containers, for machines that have no container engine.

It runs in a venv made from the image's own lock, see :mod:`aligntune_run.engines.local.venv`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from aligntune.errors import EngineError, ImageError
from aligntune.tasks import TASK_FILE
from aligntune_run.engines.base import GRACE_SECONDS, Command, Exit, Say
from aligntune_run.engines.docker.arguments import OFFLINE, TOKEN_VARIABLES
from aligntune_run.engines.local.venv import COMPLETE, DROPPED, make_venv, without
from aligntune_run.host.types import Host
from aligntune_run.images.code import code_folder, lay_out_code
from aligntune_run.images.recipes import Recipe, Sources, recipe
from aligntune_run.plan import ONLINE, Phase, Plan

TAIL_BYTES = 8192


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
        except OSError as error:
            raise EngineError(
                f"cannot write to the cache {self._host.cache}: {error.strerror}",
                "Make room there, or name another place with ALIGNTUNE_CACHE_DIR",
            ) from error
        lay_out_code(made_of, self._host.cache)

    def commands(self, plan: Plan) -> list[Command]:
        """The processes of a run, in order; ``environment`` is what is added to the caller's."""
        return [Command(phase, self._arguments(plan, phase)) for phase in plan.phases]

    def start(self, command: Command, descriptors: Sequence[int] = ()) -> ProcessWorker:
        """Start a worker in a session of its own: it outlives this program, and Ctrl-C in the
        terminal reaches this program only, which passes it on.

        Args:
            command: what to start.
            descriptors: open files that it inherits, as are the locks on its GPUs.

        Raises:
            EngineError: it cannot be started.
        """
        return ProcessWorker(command.arguments, self._environment, descriptors)

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
        if plan.task:
            command += ["--task", str(Path(plan.run_dir) / TASK_FILE)]
        environment = self._caches(plan) | self.variables(made_of)
        dropped = list(DROPPED)
        if phase == "fetch":
            command.append("--fetch")
        if phase not in ONLINE:
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
        return code_folder(made_of.backend, made_of.code_hash, self._host.cache)


class ProcessWorker:
    """A started worker, the leader of its own session; what it prints goes to an unnamed file."""

    def __init__(
        self,
        arguments: Mapping[str, Any],
        caller: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> None:
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
                pass_fds=tuple(descriptors),
            )
        except OSError as error:
            self._output.close()
            raise EngineError(
                f"cannot start {arguments['command'][0]}: {error.strerror}"
            ) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def title(self) -> str:
        """What the user finds it by."""
        return f"pid {self.pid}"

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
