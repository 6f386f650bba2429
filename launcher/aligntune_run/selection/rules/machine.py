"""Rules about the machine, which apply to every backend."""

from __future__ import annotations

from aligntune.errors import EngineError, HardwareError
from aligntune_run.check import Result, fails, pass_if, passes, warns
from aligntune_run.engines.registry import engine_kind
from aligntune_run.selection.rules.base import MACHINE, Situation

START = "Start one (see 'Container engine' in the README)"


@MACHINE.check("platform", HardwareError, "Run on x86-64 Linux")
def _platform(at: Situation) -> Result:
    host = at.host
    if host.system != "Linux":
        name = "macOS" if host.system == "Darwin" else host.system
        return fails(f"{name} and its GPU are not supported")
    supported = host.machine in ("x86_64", "AMD64")
    return pass_if(supported, f"Linux {host.machine}{'' if supported else ' is not supported'}")


@MACHINE.check("engine", EngineError, f"{START}, or use --engine process")
def _engine(at: Situation) -> Result:
    engine = at.host.engine
    if at.engine != at.spec.engine != "auto":
        return fails(engine_kind(at.spec.engine).problem(at.host))
    if at.in_containers:
        rootless = ", rootless" if engine.rootless else ""
        return passes(f"{engine.kind} {engine.version}{rootless}".rstrip())
    if at.spec.image:
        asked = at.spec.engine != "auto"
        why = f"--engine {at.engine} has none" if asked else engine.reason
        return fails(
            f"--image {at.spec.image} needs a container engine: {why}",
            f"Leave out --engine {at.engine}" if asked else START,
        )
    title = engine_kind(at.engine).title
    if at.spec.engine != "auto":
        return passes(f"{title}, as requested")
    return passes(f"{title}, because there is no container engine: {engine.reason}")


@MACHINE.check("vendor", HardwareError, "Use --gpus 0 to train on the CPU")
def _vendor(at: Situation) -> Result | None:
    other = at.host.other_gpu
    if other is None or at.host.gpus:
        return None
    if at.spec.gpus == "0":
        return passes(f"this machine's GPU is from {other}, and is not used")
    return fails(f"this machine's GPU is from {other}, which no image supports")


@MACHINE.check("gpus", HardwareError, "Ask for fewer GPUs; --gpus 0 uses the CPU")
def _gpus(at: Situation) -> Result:
    wanted, host = at.spec.gpus, at.host
    note = f" ({host.gpu_note})" if host.gpu_note else ""
    have = f"this machine has {len(host.gpus)}{note}"
    if wanted == "0":
        return passes("--gpus 0")
    if wanted == "auto":
        names = ", ".join(gpu.name for gpu in at.gpus)
        if at.gpus and host.gpu_note:
            return warns(f"{names}; {host.gpu_note}", "See `aligntune-run doctor`")
        if host.gpu_failed and not at.gpus:
            remedy = "Fix the driver (after an update, restart the machine), or use --gpus 0"
            return fails(host.gpu_note, remedy)
        return passes(names or host.gpu_note or "no GPU")
    if wanted == "all" or wanted.isdigit():
        count = max(len(host.gpus), 1) if wanted == "all" else int(wanted)
        return pass_if(count <= len(host.gpus), f"--gpus {wanted}: {have}")
    for entry in wanted.split(","):
        if not any(entry in (str(gpu.index), gpu.uuid) for gpu in host.gpus):
            return fails(f"--gpus: no GPU {entry}; {have}", "nvidia-smi -L lists them")
    return passes(", ".join(f"{gpu.name} {gpu.uuid}" for gpu in at.gpus))


@MACHINE.check("world_size", HardwareError, "Use --gpus 1", about="request")
def _world_size(at: Situation) -> Result | None:
    if not at.gpus:
        return None
    several = len(at.gpus) > 1
    if several:
        asked = f"--gpus {at.spec.gpus}"
        return fails(f"{asked}: training on several GPUs is not supported yet")
    return passes("one process on one GPU")


@MACHINE.check(
    "lease", HardwareError, "Use --wait to wait for it, or --gpus 0 to use the CPU", about="request"
)
def _lease(at: Situation) -> Result | None:
    if not at.gpus:
        return None
    if any(gpu.leased for gpu in at.gpus):
        any_gpu = at.spec.gpus == "auto" or at.spec.gpus.isdigit()
        leased = [gpu for gpu in (at.host.gpus if any_gpu else at.gpus) if gpu.leased]
        held = (f"{gpu.name} {gpu.uuid} is in use by {gpu.leased}" for gpu in leased)
        return fails("; ".join(held))
    users = [user for gpu in at.gpus for user in gpu.users]
    if users:
        return warns(
            f"the GPU is also used by {', '.join(users)}",
            "Stop that program, or choose another GPU with --gpus",
        )
    return passes("no other run or program uses it")


@MACHINE.check(
    "gpu_access",
    HardwareError,
    "Install the NVIDIA Container Toolkit, then `sudo nvidia-ctk runtime configure "
    "--runtime=docker && sudo systemctl restart docker`; or use --engine process, or --gpus 0",
)
def _gpu_access(at: Situation) -> Result | None:
    if not at.gpus or not at.in_containers:
        return None
    way = at.host.engine.gpu_way
    if way == "none":
        return fails(f"the engine cannot pass {at.gpus[0].name} to a container")
    name = {"nvidia": "NVIDIA's container runtime", "cdi": "CDI"}[way]
    return passes(f"through {name}")


@MACHINE.check(
    "cgroups",
    HardwareError,
    'Use CDI, or set "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json and '
    "`sudo systemctl restart docker`",
)
def _cgroups(at: Situation) -> Result | None:
    engine = at.host.engine
    if not at.gpus or not at.in_containers or engine.gpu_way != "nvidia":
        return None
    if engine.cgroup_driver != "systemd":
        return passes(engine.cgroup_driver or "the engine does not say which")
    return warns("with the systemd cgroup driver, `systemctl daemon-reload` takes the GPU away")
