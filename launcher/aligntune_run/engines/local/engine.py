"""Process: the same worker without containers, for machines without a container engine.

It runs in a venv made from the image's own lock, see :mod:`aligntune_run.engines.local.venv`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligntune.errors import EngineError, ImageError
from aligntune.tasks import TASK_FILE
from aligntune.units import gib
from aligntune_run.engines.base import Command, EngineContext, EngineKind, Say, WorkerStatus
from aligntune_run.engines.docker.arguments import OFFLINE, TOKEN_VARIABLES
from aligntune_run.engines.gpu_leases import LocalGpus, gpus_of
from aligntune_run.engines.local.environment import VenvEnvironment
from aligntune_run.engines.local.venv import COMPLETE, DROPPED, make_venv, without
from aligntune_run.engines.local.worker import Handle, ProcessWorker, Started, submit
from aligntune_run.host.types import Host
from aligntune_run.images.code import code_folder, lay_out_code
from aligntune_run.images.recipes import Recipe, Sources, recipe
from aligntune_run.plan import ONLINE, Phase, Plan

if TYPE_CHECKING:
    from docker import DockerClient


class ProcessEngine:
    """Runs plans as processes.

    Args:
        host: the machine, as probed.
        environment: the caller's; the worker inherits it, except for what would change the run.
        find_links: folders or addresses with wheels that no index has.
        sources: recipes and code, if not this installation's own.
        agree: is asked before gigabytes are downloaded, with their size in the question.
        client: of the container engine whose containers may hold GPUs.
    """

    def __init__(
        self,
        host: Host,
        environment: Mapping[str, str] = os.environ,
        find_links: Sequence[str] = (),
        sources: Sources | None = None,
        agree: Callable[[str], bool] = lambda question: True,
        client: DockerClient | None = None,
    ) -> None:
        self._host = host
        self._environment = environment
        self._find_links = find_links
        self._sources = sources
        self._agree = agree
        self._gpus = LocalGpus(host, client)
        self._started: dict[str, Started] = {}

    def prepare(self, plan: Plan, say: Say) -> Plan:
        """Make the venv and copy the worker's code, unless they exist.

        Raises:
            EngineError: Python of the lock's version, the network, or disk space is missing.
            ImageError: a package is unavailable or is not the one in the lock, or the user did not
                agree.
        """
        self.make(self._recipe(plan), say)
        return plan

    def make(self, made_of: Recipe, say: Say) -> None:
        """Make a recipe's venv and copy its code; raises what :meth:`prepare` raises."""
        venv = self._venv(made_of)
        if not (venv / COMPLETE).exists():
            size = made_of.download_size
            download = f": {gib(size)} to download" if size else ""
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
                "Free some space there, or set ALIGNTUNE_CACHE_DIR",
            ) from error
        lay_out_code(made_of, self._host.cache)

    def commands(self, plan: Plan) -> list[Command]:
        """The processes of a run, in order; ``environment`` is added to the caller's."""
        return [
            Command(phase, self._arguments(plan, phase), plan.run_id, gpus_of(plan, phase))
            for phase in plan.phases
        ]

    def submit(
        self,
        command: Command,
        record: Callable[[str], None],
        tick: Callable[[], None] = lambda: None,
    ) -> str:
        """Start a worker in a session of its own. It outlives this program; Ctrl-C in the terminal
        reaches this program only, which passes it on. It inherits the locks on its GPUs.

        Raises:
            GpusInUseError: another run holds a GPU of the command.
            EngineError: it cannot be started.
        """
        arguments = command.arguments
        environment = without(self._environment, arguments["without"]) | arguments["environment"]
        with self._gpus.leasing(command.gpus, tick) as lease:
            handle, supervisor = submit(arguments, environment, record, lease.descriptors)
            lease.sign(f"{command.run_id} (pid {handle.pid})")
        self._started[str(handle)] = Started(supervisor, lease)
        return str(handle)

    def attach(self, handle: str) -> ProcessWorker:
        """The worker of a handle, whoever started it.

        Raises:
            EngineError: the handle is not a local worker's.
        """
        return ProcessWorker(Handle.parse(handle), self._started.pop(handle, None))

    def status(self, handle: str) -> WorkerStatus:
        """See :class:`~aligntune_run.engines.base.Engine`."""
        return ProcessWorker(Handle.parse(handle)).status

    def stop(self, handle: str) -> None:
        """See :class:`~aligntune_run.engines.base.Engine`."""
        ProcessWorker(Handle.parse(handle)).stop()

    def logs(self, handle: str) -> str:
        """See :class:`~aligntune_run.engines.base.Engine`."""
        return ProcessWorker(Handle.parse(handle)).output()

    def environment(self, made_of: Recipe, gpus: tuple[str, ...], say: Say) -> VenvEnvironment:
        """See :class:`~aligntune_run.engines.base.Engine`; raises what :meth:`prepare` raises."""
        self.make(made_of, say)
        inherited = without(self._environment, (*DROPPED, *TOKEN_VARIABLES))
        return VenvEnvironment(self._gpus, gpus, inherited | self.variables(made_of))

    def variables(self, made_of: Recipe) -> dict[str, str]:
        """Variables for a program in a recipe's venv; they are added to the caller's."""
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
        """The caller's hub caches, and our caches for compiled kernels and processed data."""
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


def _make(context: EngineContext) -> ProcessEngine:
    return ProcessEngine(
        context.host, find_links=context.find_links, agree=context.agree, client=context.client
    )


KIND = EngineKind(_make, lambda host: "", "a process in a venv", in_containers=False)
