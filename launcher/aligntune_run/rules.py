"""The rules by which a backend is chosen: small pure functions from a situation to a verdict.

A rule says what it found with its evidence, or None where it does not apply. To add one, write it
and put it in :data:`OF_THE_MACHINE`, which holds whichever backend is taken, or in
:data:`OF_A_BACKEND`. Nothing here looks at anything but the situation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from aligntune.algorithms import ALGORITHMS, TITLES
from aligntune.errors import (
    AligntuneError,
    EngineError,
    HardwareError,
    ImageError,
    ModelError,
    OutOfMemoryError,
    SpecError,
)
from aligntune.settings import nearest
from aligntune.spec import RunSpec
from aligntune_run import memory
from aligntune_run.gpus import Gpu
from aligntune_run.host import Host, ImageState
from aligntune_run.models import ModelFacts
from aligntune_run.plan import Verdict, memory_limit

Facts = Mapping[str, Any]
"""One backend's ``facts.json``."""

FP8_CAPABILITY = (9, 0)
BF16_CAPABILITY = (8, 0)

NOTHING_FITS = "Use a smaller model or another machine; --set fit=warn tries all the same"

START = "Start one (see README, 'Container engine')"

NOTHING_SURER = "No change of the request makes it sure"

QUANTIZERS = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "aqlm": "aqlm",
    "compressed-tensors": "compressed-tensors",
    "eetq": "eetq",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "vptq": "vptq",
}
"""How a checkpoint may be quantized already -> the package it takes, which no image has."""


@dataclass(frozen=True)
class Situation:
    """What a rule of the machine may look at.

    Attributes:
        engine: what would carry the request out.
        gpus: what it would get.
    """

    spec: RunSpec
    host: Host
    engine: Literal["docker", "process"]
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, kw_only=True)
class Candidate(Situation):
    """What a rule of a backend may look at: the situation, and this backend in one flavour.

    Attributes:
        model: what is known of it; None where none is loaded.
        trains: whether the request is to train, or does something with what was trained.
    """

    backend: str
    facts: Facts
    image: ImageState | None
    model: ModelFacts | None
    trains: bool = True

    @property
    def bf16(self) -> bool:
        """Whether what it computes on has bfloat16."""
        if self.gpus:
            return all(gpu.capability >= BF16_CAPABILITY for gpu in self.gpus)
        return self.host.bf16

    @cached_property
    def estimate(self) -> memory.Estimate | None:
        """The memory that training takes."""
        if not self.trains or self.model is None:
            return None
        return memory.estimate(
            self.spec, self.model, self.backend, cuda=bool(self.gpus), bf16=self.bf16
        )

    @property
    def derived(self) -> bool:
        """Whether the image is the user's own, which may have more in it than its facts say."""
        return self.spec.image is not None


class Said(NamedTuple):
    """What a rule found; ``remedy`` where it knows a better one than :data:`Rule.remedy`."""

    level: Literal["pass", "warn", "fail"]
    evidence: str
    remedy: str = ""


class Rule(NamedTuple):
    """One rule; where its failure ends a run, the error's class and what to do."""

    judge: Callable[[Any], Said | None]
    kind: type[AligntuneError]
    remedy: str


def judge(rules: Mapping[str, Rule], at: Situation) -> tuple[Verdict, ...]:
    """Every rule's verdict on one situation, in their order."""
    backend = at.backend if isinstance(at, Candidate) else ""
    said = []
    for name, rule in rules.items():
        found = rule.judge(at)
        if found is not None:
            remedy = "" if found.level == "pass" else found.remedy or rule.remedy
            said.append(Verdict(name, backend, found.level, found.evidence, remedy))
    return tuple(said)


def _either(passed: bool, evidence: str, remedy: str = "") -> Said:
    return Said("pass" if passed else "fail", evidence, remedy)


# --- what holds whichever backend is taken


def _platform(at: Situation) -> Said:
    host = at.host
    if host.system != "Linux":
        name = "macOS" if host.system == "Darwin" else host.system
        return Said("fail", f"{name} is not supported, nor is its GPU")
    supported = host.machine in ("x86_64", "AMD64")
    return _either(supported, f"Linux {host.machine}{'' if supported else ' is not supported'}")


def _engine(at: Situation) -> Said:
    engine = at.host.engine
    if at.spec.engine == "docker" and not engine.reachable:
        return Said("fail", f"no container engine: {engine.reason}")
    if at.engine == "docker":
        rootless = ", rootless" if engine.rootless else ""
        return Said("pass", f"{engine.kind} {engine.version}{rootless}".rstrip())
    if at.spec.image:
        process = at.spec.engine == "process"
        why = "which --engine process is not" if process else engine.reason
        return Said(
            "fail",
            f"--image {at.spec.image} needs a container engine: {why}",
            "Leave out --engine process" if process else START,
        )
    if at.spec.engine == "process":
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
        return _either(count <= len(host.gpus), f"--gpus {wanted}: {have}")
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
    if not at.gpus or at.engine != "docker":
        return None
    way = at.host.engine.gpu_way
    if way == "none":
        return Said("fail", f"the engine cannot pass {at.gpus[0].name} to a container")
    told = {"nvidia": "NVIDIA's container runtime", "cdi": "CDI"}[way]
    return Said("pass", f"by {told}")


def _cgroups(at: Situation) -> Said | None:
    engine = at.host.engine
    if not at.gpus or at.engine != "docker" or engine.gpu_way != "nvidia":
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


# --- what is judged for each backend


def _algorithm(at: Candidate) -> Said:
    row = ALGORITHMS[at.spec.algorithm]
    passed = at.backend in row.backends
    word = "runs" if passed else "does not run"
    return _either(passed, f"{row.title} {word} on {TITLES[at.backend]}")


def _gpu(at: Candidate) -> Said | None:
    if at.backend != "unsloth":
        return None
    if at.gpus:
        return Said("pass", f"it gets {at.gpus[0].name}")
    why = "--gpus 0" if at.spec.gpus == "0" else at.host.gpu_note
    return Said("fail", f"it needs an NVIDIA GPU: {why}".removesuffix(": "))


def _driver(at: Candidate) -> Said | None:
    if not at.gpus or at.host.driver is None:
        return None
    flavour = at.facts["flavours"]["cuda"]
    least = str(flavour["min_driver"])
    newest = f" (CUDA {at.host.driver_cuda})" if at.host.driver_cuda else ""
    return _either(
        _numbers(at.host.driver) >= _numbers(least),
        f"driver {at.host.driver}{newest}; the image's CUDA {flavour['cuda']} needs {least} "
        "or newer",
    )


def _capability(at: Candidate) -> Said | None:
    if not at.gpus:
        return None
    flavour = at.facts["flavours"]["cuda"]
    least, made_for = str(flavour["min_compute_capability"]), list(flavour["arch_list"])
    for gpu in at.gpus:
        told = f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        if gpu.capability < _numbers(least):
            return Said("fail", f"{told}; needs {least}")
        if not any(runs(arch, gpu.capability) for arch in made_for):
            return Said(
                "fail",
                f"{told}; the image's torch is made for {', '.join(made_for)}",
                "Use another GPU, or --gpus 0",
            )
    return Said("pass", f"{told}; needs {least}")


def runs(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code for ``sm_86`` (this major version, this minor one or newer), ``sm_90a`` (exactly
    this) or ``compute_80`` (compiled anew on anything newer) runs on a GPU.

    https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc/#gpu-feature-list
    """
    kind, _, number = arch.partition("_")
    major, minor = divmod(int(number.rstrip("af")), 10)
    if number.endswith("a"):
        return capability == (major, minor)
    if kind == "compute":
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor


def _model(at: Candidate) -> Said | None:
    if at.model is None:
        return None
    kind = at.model.model_type
    if at.model.vision:
        return Said("fail", f"{kind} is a vision model, which is not supported")
    if kind is None:
        if at.backend != "unsloth":
            return None  # TRL takes what transformers takes; the worker says if it does not
        why = f" ({at.model.note})" if at.model.note else ""
        return Said(
            "fail",
            f"what type {at.spec.model.name} is of is not known before it is fetched{why}",
            "Use --backend trl",
        )
    if kind not in at.facts["model_types"]:
        if at.backend == "trl" and at.model.custom_code and at.spec.model.trust_remote_code:
            return Said("pass", f"{kind} is loaded by the code that its repository carries")
        version = at.facts["versions"]["transformers"]
        own_code = "; its repository carries code for it" if at.model.custom_code else ""
        return Said(
            "fail",
            f"its transformers {version} has no causal {kind!r}{own_code}",
            "Set model.trust_remote_code=true if you trust that" if own_code else "",
        )
    if at.backend == "unsloth":
        path = "fast" if kind in at.facts["fast_model_types"] else "general"
        return Said("pass", f"{kind} takes Unsloth's {path} path")
    return Said("pass", f"{kind} is a causal model that transformers knows")


def _quantization(at: Candidate) -> Said | None:
    wanted = at.spec.model.quantization
    method = at.model.quantized if at.model else None
    if method is None:
        return None if wanted == "none" else Said("pass", f"{wanted} by bitsandbytes")
    if wanted != "none" and method != "bitsandbytes":
        return Said("fail", f"its weights are quantized by {method} already, so not to {wanted}")
    if at.spec.adapter.type == "none":
        return Said(
            "fail",
            f"its weights are quantized by {method}, and such cannot be trained in full",
            "Train an adapter, as with --lora-rank 16, or take the weights it was made from",
        )
    package = QUANTIZERS.get(method)
    if package and not at.derived:
        return Said("fail", f"its weights are quantized by {method}, and no image has {package}")
    return Said("pass", f"its weights are quantized by {method}")


def _precision(at: Candidate) -> Said:
    asked = at.spec.training.precision
    bf16 = at.bf16
    other = "fp16" if at.gpus else "fp32"
    taken = ("bf16" if bf16 else other) if asked == "auto" else asked
    where = "this GPU" if at.gpus else "this CPU"
    if asked == "fp16" and not at.gpus:
        return Said("fail", "fp16 is not for a CPU", "Use training.precision=bf16 or fp32")
    if asked == "bf16" and not bf16:
        if at.gpus:
            return Said("fail", f"{where} does not compute in bf16", "Use training.precision=fp16")
        return Said("warn", f"{where} computes bf16 slowly", "Use training.precision=fp32")
    if at.backend == "unsloth" and at.spec.unsloth.get("load_in_fp8"):
        slow = [gpu for gpu in at.gpus if gpu.capability < FP8_CAPABILITY]
        if slow:
            return Said("fail", "unsloth.load_in_fp8 needs compute capability 9.0", "Leave it out")
    return Said("pass", f"{taken} on {where}")


def _attention(at: Candidate) -> Said | None:
    asked = at.spec.model.attention
    if asked == "auto":
        return None
    if asked == "flash_attention_2" and not at.derived:
        return Said(
            "fail",
            "model.attention=flash_attention_2 needs the package flash-attn, which no image has",
            "Use sdpa, which has kernels of the same kind",
        )
    return Said("pass", asked)


def _trainer_args(at: Candidate) -> Said | None:
    row = ALGORITHMS[at.spec.algorithm]
    if at.backend not in row.backends:
        return None
    known = list(at.facts["trainer_args"][row.name])
    own = {*known, *at.facts["model_args"]}
    section = at.spec.of_backend(at.backend)
    for key, given, names in (
        ("trainer_args", at.spec.trainer_args, known),
        (at.backend, section, sorted(own)),
    ):
        for name in given:
            if name not in names:
                return Said(
                    "fail",
                    f"{key}.{name}: {row.config} has no such argument{nearest(name, names)}",
                )
    named = ", ".join([*at.spec.trainer_args, *section])
    return Said("pass", named) if named else None


def _names(at: Candidate) -> Said | None:
    training = at.spec.training
    for key, value, table in (
        ("optimizer", training.optimizer, "optimizers"),
        ("schedule", training.schedule, "schedules"),
    ):
        known = list(at.facts[table])
        if value not in known:
            return Said(
                "fail", f"training.{key}: no {value!r} in transformers{nearest(value, known)}"
            )
    return None


def _image(at: Candidate) -> Said:
    if at.image is None:
        flavour = "cuda" if at.gpus else "cpu"
        own = at.host.images[0] if at.derived and at.host.images else None
        named = (
            f"--image {at.spec.image} is of {own.backend} {own.flavour}" if own else "there is none"
        )
        return Said("fail", f"no {flavour} image of it: {named}")
    if at.image.how is None:
        return Said("fail", at.image.reason)
    if at.engine == "process":
        return Said("pass", f"a venv is made from the {at.image.flavour} lock")
    how = {"present": "is here", "pull": "is pulled first", "build": "is built first"}[at.image.how]
    return Said("pass", f"{at.image.ref} {how}")


def _storage(at: Candidate) -> Said | None:
    """Room for an image or a venv that is yet to be had; a build writes its packages twice."""
    if at.image is None or at.image.how in (None, "present"):
        return None
    process = at.engine == "process"
    free = at.host.cache_free if process else at.host.engine.storage_free
    place = str(at.host.cache) if process else at.host.engine.root
    size = at.facts["flavours"].get(at.image.flavour, {}).get("image_size")
    if free is None or not size:
        return None
    told = f"{free / 1e9:.1f} GB free in {place}, and it takes {size / 1e9:.1f} GB"
    return _either(free > size, told)


def _memory(at: Candidate) -> Said | None:
    if not at.trains or at.model is None:
        return None
    needed = at.estimate
    if needed is None:
        why = f": {at.model.note}" if at.model.note else ""
        return Said("pass", f"how much it takes is not known before the model is here{why}")
    available, where = _available(at)
    told = f"it takes about {gib(needed.expected)}, and {gib(available)} {where}"
    if needed.high <= available:
        return Said("pass", told)
    remedy = _remedy(at, needed, available)
    if needed.low <= available:
        return Said("warn", f"{told}: it may run out of memory", remedy)
    told = f"it takes {gib(needed.low)} at the very least, and {gib(available)} {where}"
    if at.spec.fit == "warn":
        return Said("warn", told, remedy)
    return Said("fail", told, remedy)


def _remedy(at: Candidate, needed: memory.Estimate, available: int) -> str:
    """Changes with which it surely fits, or else those with which it is expected to."""
    figures: tuple[tuple[Literal["high", "expected"], str], ...] = (
        ("high", "Fits with"),
        ("expected", "May fit with"),
    )
    for figure, words in figures:
        found = memory.changes(
            at.spec,
            at.model or ModelFacts(),
            at.backend,
            cuda=bool(at.gpus),
            bf16=at.bf16,
            available=available,
            figure=figure,
        )
        if found:
            return f"{words} {' '.join(found)}"
    return NOTHING_SURER if needed.expected <= available else NOTHING_FITS


def _available(at: Candidate) -> tuple[int, str]:
    """Bytes that training may take, and where they are, in words."""
    if at.gpus:
        least = min(at.gpus, key=lambda gpu: gpu.free)
        return least.free, f"are free on {least.name}"
    limit = min(memory_limit(at.spec.memory, at.host.memory_usable), at.host.memory_usable)
    return max(limit - memory.CPU_IMPORTS[at.backend], 0), "are there for it"


def gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


OF_A_BACKEND: dict[str, Rule] = {
    "algorithm": Rule(_algorithm, SpecError, "The README's table says what runs where"),
    "gpu": Rule(_gpu, HardwareError, "Use --backend trl"),
    "driver": Rule(_driver, HardwareError, "Update the NVIDIA driver, or use --gpus 0"),
    "capability": Rule(_capability, HardwareError, "Use a newer GPU, or --gpus 0"),
    "model": Rule(_model, ModelError, "Use a causal language model"),
    "quantization": Rule(_quantization, ModelError, "Use the weights that it was made from"),
    "precision": Rule(_precision, SpecError, "Set training.precision=auto"),
    "attention": Rule(_attention, SpecError, "Leave it out"),
    "trainer_args": Rule(_trainer_args, SpecError, "Mend the name or leave it out"),
    "names": Rule(_names, SpecError, "Mend the name or leave it out"),
    "memory": Rule(_memory, OutOfMemoryError, NOTHING_FITS),
    "image": Rule(_image, ImageError, "See `aligntune-run images list`"),
    "storage": Rule(_storage, ImageError, "Free some: `docker system df` shows what takes it"),
}
"""Name -> rule that is judged for each backend."""
