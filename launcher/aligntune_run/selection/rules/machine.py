"""Rules that hold whichever backend is taken."""

from __future__ import annotations

from aligntune.errors import EngineError, HardwareError
from aligntune_run.engines.registry import ENGINES
from aligntune_run.selection.rules.base import Rule, Said, Situation, either

START = "Start one (see README, 'Container engine')"


def _platform(at: Situation) -> Said:
    host = at.host
    if host.system != "Linux":
        name = "macOS" if host.system == "Darwin" else host.system
        return Said("fail", f"{name} is not supported, nor is its GPU")
    supported = host.machine in ("x86_64", "AMD64")
    return either(supported, f"Linux {host.machine}{'' if supported else ' is not supported'}")


def _engine(at: Situation) -> Said:
    engine = at.host.engine
    if at.engine != at.spec.engine != "auto":
        return Said("fail", f"no container engine: {ENGINES[at.spec.engine].problem(at.host)}")
    if at.in_containers:
        rootless = ", rootless" if engine.rootless else ""
        return Said("pass", f"{engine.kind} {engine.version}{rootless}".rstrip())
    if at.spec.image:
        asked = at.spec.engine != "auto"
        why = f"which --engine {at.engine} is not" if asked else engine.reason
        return Said(
            "fail",
            f"--image {at.spec.image} needs a container engine: {why}",
            f"Leave out --engine {at.engine}" if asked else START,
        )
    if at.spec.engine != "auto":
        return Said("pass", "a process in a venv, as asked")
    return Said("pass", f"a process in a venv, as no container engine is there: {engine.reason}")


def _vendor(at: Situation) -> Said | None:
    other = at.host.other_gpu
    if other is None or at.host.gpus:
        return None
    if at.spec.gpus == "0":
        return Said("pass", f"this machine's GPU is from {other}, and is not used")
    return Said("fail", f"this machine's GPU is from {other}, which no image supports")


def _gpus(at: Situation) -> Said:
    wanted, host = at.spec.gpus, at.host
    note = f" ({host.gpu_note})" if host.gpu_note else ""
    have = f"this machine has {len(host.gpus)}{note}"
    if wanted == "0":
        return Said("pass", "--gpus 0")
    if wanted == "auto":
        told = ", ".join(gpu.name for gpu in at.gpus)
        if at.gpus and host.gpu_note:
            return Said("warn", f"{told}; {host.gpu_note}", "`aligntune-run doctor` says more")
        if host.gpu_failed and not at.gpus:
            remedy = "Mend that (a restart does after an update of the driver), or use --gpus 0"
            return Said("fail", host.gpu_note, remedy)
        return Said("pass", told or host.gpu_note or "no GPU")
    if wanted == "all" or wanted.isdigit():
        count = max(len(host.gpus), 1) if wanted == "all" else int(wanted)
        return either(count <= len(host.gpus), f"--gpus {wanted}: {have}")
    for entry in wanted.split(","):
        if not any(entry in (str(gpu.index), gpu.uuid) for gpu in host.gpus):
            return Said("fail", f"--gpus: no GPU {entry}; {have}", "nvidia-smi -L lists them")
    return Said("pass", ", ".join(f"{gpu.name} {gpu.uuid}" for gpu in at.gpus))


def _world_size(at: Situation) -> Said | None:
    if not at.gpus:
        return None
    several = len(at.gpus) > 1
    if several:
        asked = f"--gpus {at.spec.gpus}"
        return Said("fail", f"{asked}: training on several GPUs is not supported yet")
    return Said("pass", "one process on one GPU")


def _lease(at: Situation) -> Said | None:
    if not at.gpus:
        return None
    if any(gpu.leased for gpu in at.gpus):
        any_would_do = at.spec.gpus == "auto" or at.spec.gpus.isdigit()
        leased = [gpu for gpu in (at.host.gpus if any_would_do else at.gpus) if gpu.leased]
        told = (f"{gpu.name} {gpu.uuid} is in use by {gpu.leased}" for gpu in leased)
        return Said("fail", "; ".join(told))
    users = [user for gpu in at.gpus for user in gpu.users]
    if users:
        return Said(
            "warn",
            f"the GPU is also used by {', '.join(users)}",
            "End it, or name another GPU with --gpus",
        )
    return Said("pass", "nobody else has it")


def _gpu_access(at: Situation) -> Said | None:
    if not at.gpus or not at.in_containers:
        return None
    way = at.host.engine.gpu_way
    if way == "none":
        return Said("fail", f"the engine cannot pass {at.gpus[0].name} to a container")
    told = {"nvidia": "NVIDIA's container runtime", "cdi": "CDI"}[way]
    return Said("pass", f"by {told}")


def _cgroups(at: Situation) -> Said | None:
    engine = at.host.engine
    if not at.gpus or not at.in_containers or engine.gpu_way != "nvidia":
        return None
    if engine.cgroup_driver != "systemd":
        return Said("pass", engine.cgroup_driver or "the engine does not say which")
    return Said("warn", "under systemd's cgroups `systemctl daemon-reload` takes the GPU away")


OF_THE_MACHINE: dict[str, Rule] = {
    "platform": Rule(_platform, HardwareError, "Run on x86-64 Linux"),
    "engine": Rule(
        _engine,
        EngineError,
        f"{START}, or use --engine process",
    ),
    "vendor": Rule(_vendor, HardwareError, "Use --gpus 0 to train on the CPU"),
    "gpus": Rule(_gpus, HardwareError, "Ask for fewer; --gpus 0 is the CPU"),
    "world_size": Rule(_world_size, HardwareError, "Use --gpus 1"),
    "lease": Rule(_lease, HardwareError, "--wait waits until it is free; --gpus 0 is the CPU"),
    "gpu_access": Rule(
        _gpu_access,
        HardwareError,
        "Install the NVIDIA Container Toolkit, or use --engine process, or --gpus 0",
    ),
    "cgroups": Rule(
        _cgroups,
        HardwareError,
        'Set "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json, or use CDI',
    ),
}
"""Name -> rule that is judged once, whatever the backend."""
