"""Choosing a backend: pure, from the request, the host and what the images publish to a Choice.

A rule is a small function from one situation to a verdict with evidence, or None where it does not
apply. ``auto`` takes the first backend, fastest first, whose rules all pass; the first failing rule
of a faster one is the reason given. To add a rule, write it and put it in :data:`RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aligntune.algorithms import ALGORITHMS, BACKENDS, TITLES
from aligntune.errors import (
    AligntuneError,
    BackendError,
    EngineError,
    HardwareError,
    ImageError,
    ModelError,
    SpecError,
)
from aligntune.settings import nearest
from aligntune.spec import RunSpec
from aligntune_run.gpus import Gpu
from aligntune_run.host import Host, ImageState
from aligntune_run.leases import in_use
from aligntune_run.models import ModelFacts
from aligntune_run.plan import Choice, Image, Verdict

Facts = Mapping[str, Any]
"""One backend's ``facts.json``."""


@dataclass(frozen=True)
class Situation:
    """What a rule may look at: one backend in one flavour, for one request on one host."""

    spec: RunSpec
    host: Host
    model: ModelFacts | None
    backend: str
    facts: Facts
    image: ImageState | None
    gpus: tuple[Gpu, ...]
    engine: Literal["docker", "process"]


Rule = Callable[[Situation], tuple[bool, str] | None]


def choose(
    spec: RunSpec, host: Host, model: ModelFacts | None, facts: Mapping[str, Facts]
) -> Choice:
    """The backend, image, engine and GPUs for a request.

    Args:
        spec: the request.
        host: the machine.
        model: what the model's own files say; unknown fields where they are not here yet. None
            leaves the model out of it.
        facts: by backend, what its image publishes in ``facts.json``.

    Raises:
        AligntuneError: nothing can run this, or ``strict`` forbids what can; the class says whose
            fault it is (hardware, engine, image, backend).
    """
    require_supported(host)
    engine = choose_engine(spec.engine, spec.image, host)
    gpus = choose_gpus(spec.gpus, host, engine)
    situations = {
        backend: Situation(
            spec,
            host,
            model,
            backend,
            facts[backend],
            choose_image(host, backend, gpus),
            gpus,
            engine,
        )
        for backend in BACKENDS
    }
    verdicts = {backend: judge(situation) for backend, situation in situations.items()}
    failing = {
        backend: next((verdict for verdict in said if not verdict.passed), None)
        for backend, said in verdicts.items()
    }
    chosen = _pick(spec, failing)
    image = situations[chosen].image
    assert image is not None
    assert image.how is not None, "the image rule has passed"
    warnings = []
    missed = failing.get(spec.backend)
    if missed is not None:
        warnings.append(
            f"{TITLES[spec.backend]} was asked for and cannot be had: {missed.evidence}. "
            f"Training with {TITLES[chosen]} instead; --strict makes this an error"
        )
    return Choice(
        backend=chosen,
        flavour=image.flavour,
        engine=engine,
        image=Image(image.ref, image.id, image.how, image.lock_hash)
        if engine == "docker"
        else None,
        lock_hash=image.lock_hash,
        gpus=tuple(gpu.uuid for gpu in gpus),
        reason=_reason(spec, chosen, failing, gpus),
        warnings=tuple(warnings),
        verdicts=tuple(verdict for backend in BACKENDS for verdict in verdicts[backend]),
    )


def _pick(spec: RunSpec, failing: Mapping[str, Verdict | None]) -> str:
    wanted = [spec.backend] if spec.backend != "auto" else list(BACKENDS)
    if spec.backend == "unsloth" and not spec.strict:
        wanted.append("trl")
    for backend in wanted:
        if failing[backend] is None:
            return backend
    first = failing[wanted[0] if spec.strict and spec.backend != "auto" else wanted[-1]]
    assert first is not None
    raise _refusal(spec, first)


def _refusal(spec: RunSpec, verdict: Verdict) -> AligntuneError:
    if spec.strict and verdict.backend == "unsloth":
        return BackendError(
            f"--strict: {TITLES['unsloth']} cannot be had: {verdict.evidence}",
            "Leave --strict out to fall back to TRL",
        )
    _, kind, remedy = RULES[verdict.rule]
    return kind(f"{TITLES[verdict.backend]}: {verdict.evidence}", remedy)


def _reason(
    spec: RunSpec, chosen: str, failing: Mapping[str, Verdict | None], gpus: tuple[Gpu, ...]
) -> str:
    where = f"on {', '.join(gpu.name for gpu in gpus)}" if gpus else "on the CPU"
    faster = [failing[name] for name in BACKENDS[: BACKENDS.index(chosen)]]
    missed = next((verdict for verdict in faster if verdict is not None), None)
    if spec.backend == chosen:
        why = "as asked"
    elif missed is not None:
        why = f"not {TITLES[missed.backend]}: {missed.evidence}"
    else:
        why = "every rule of the fastest backend passes"
    return f"{TITLES[chosen]} {where} ({why})"


def require_supported(host: Host) -> None:
    """Refuse by name a platform that no image is made for."""
    if host.system != "Linux":
        name = "macOS" if host.system == "Darwin" else host.system
        raise HardwareError(f"{name} is not supported, nor is its GPU", "Run on x86-64 Linux")
    if host.machine not in ("x86_64", "AMD64"):
        raise HardwareError(f"{host.machine} is not supported", "Run on x86-64 Linux")


def choose_engine(wanted: str, derived: str | None, host: Host) -> Literal["docker", "process"]:
    """Docker where an engine is reachable, else a process; what was asked for, or an error."""
    if wanted == "docker" and not host.engine.reachable:
        raise EngineError(
            f"no container engine: {host.engine.reason}",
            "Start one (see README, 'Container engine'), or use --engine process",
        )
    if wanted == "process" or not host.engine.reachable:
        if derived:
            raise EngineError(
                f"--image {derived} needs a container engine", "Leave out --engine process"
            )
        return "process"
    return "docker"


def choose_gpus(wanted: str, host: Host, engine: str) -> tuple[Gpu, ...]:
    """The GPUs a run gets; ``auto`` is the first one, or none where there is none.

    Raises:
        HardwareError: there are fewer than asked for, the machine's GPU is of a vendor that no
            image supports, or the engine cannot pass GPUs to a container.
    """
    if wanted == "0":
        return ()
    if host.other_gpu and not host.gpus:
        raise HardwareError(
            f"this machine's GPU is from {host.other_gpu}, which neither backend's image supports",
            "--gpus 0 trains on the CPU",
        )
    chosen = _pick_gpus(wanted, host)
    if len(chosen) > 1:
        raise HardwareError(
            f"--gpus {wanted}: training on several GPUs is not supported yet", "Use --gpus 1"
        )
    if chosen and engine == "docker" and host.engine.gpu_way == "none":
        raise HardwareError(
            f"the engine cannot pass {chosen[0].name} to a container",
            "Install the NVIDIA Container Toolkit, or use --engine process, or --gpus 0",
        )
    return chosen


def _pick_gpus(wanted: str, host: Host) -> tuple[Gpu, ...]:
    free = tuple(gpu for gpu in host.gpus if not gpu.leased)
    leased = [gpu for gpu in host.gpus if gpu.leased]
    if wanted == "auto":
        if leased and not free:
            raise in_use(leased)
        return free[:1]
    have = f"this machine has {len(host.gpus)}" + (f" ({host.gpu_note})" if host.gpu_note else "")
    if wanted == "all" or wanted.isdigit():
        count = max(len(host.gpus), 1) if wanted == "all" else int(wanted)
        if count > len(host.gpus):
            raise HardwareError(f"--gpus {wanted}: {have}", "Ask for fewer; --gpus 0 is the CPU")
        if count > len(free):
            raise in_use(leased)
        return free[:count]
    found = []
    for entry in wanted.split(","):
        match = [gpu for gpu in host.gpus if entry in (str(gpu.index), gpu.uuid)]
        if not match:
            raise HardwareError(f"--gpus: no GPU {entry}; {have}", "nvidia-smi -L lists them")
        if match[0].leased:
            raise in_use(match)
        found += match
    return tuple(dict.fromkeys(found))


def choose_image(host: Host, backend: str, gpus: tuple[Gpu, ...]) -> ImageState | None:
    """A backend's image: with a GPU the CUDA one; without, the small one if it can be had."""
    flavours = ("cuda",) if gpus else ("cpu", "cuda")
    states = [
        state
        for flavour in flavours
        for state in host.images
        if (state.backend, state.flavour) == (backend, flavour)
    ]
    return next((state for state in states if state.how), states[0] if states else None)


def judge(situation: Situation) -> tuple[Verdict, ...]:
    """Every rule's verdict on one situation, in order of :data:`RULES`."""
    said = []
    for name, (rule, _, _) in RULES.items():
        outcome = rule(situation)
        if outcome is not None:
            passed, evidence = outcome
            level: Literal["pass", "fail"] = "pass" if passed else "fail"
            said.append(Verdict(name, situation.backend, level, evidence))
    return tuple(said)


def _algorithm(at: Situation) -> tuple[bool, str]:
    row = ALGORITHMS[at.spec.algorithm]
    passed = at.backend in row.backends
    return passed, f"{row.title} {'runs' if passed else 'does not run'} on {TITLES[at.backend]}"


def _gpu(at: Situation) -> tuple[bool, str] | None:
    if at.backend != "unsloth":
        return None
    if at.gpus:
        return True, f"it gets {at.gpus[0].name}"
    why = "--gpus 0" if at.spec.gpus == "0" else at.host.gpu_note
    return False, f"it needs an NVIDIA GPU: {why}"


def _driver(at: Situation) -> tuple[bool, str] | None:
    if not at.gpus or at.host.driver is None:
        return None
    least = str(at.facts["flavours"]["cuda"]["min_driver"])
    passed = _numbers(at.host.driver) >= _numbers(least)
    return passed, f"driver {at.host.driver}; the image's CUDA needs {least} or newer"


def _capability(at: Situation) -> tuple[bool, str] | None:
    if not at.gpus:
        return None
    least = str(at.facts["flavours"]["cuda"]["min_compute_capability"])
    worst = min(gpu.capability for gpu in at.gpus)
    return worst >= _numbers(least), f"compute capability {worst[0]}.{worst[1]}; needs {least}"


def _model(at: Situation) -> tuple[bool, str] | None:
    if at.model is None:
        return None
    kind = at.model.model_type
    if at.model.vision:
        return False, f"{kind} is a vision model, which is not supported"
    if kind is None:
        if at.backend != "unsloth":
            return None  # TRL takes what transformers takes; the worker says if it does not
        return False, f"what type {at.spec.model.name} is of is not known before it is fetched"
    if kind not in at.facts["model_types"]:
        return (
            False,
            f"its transformers {at.facts['versions']['transformers']} has no causal {kind!r}",
        )
    if at.backend == "unsloth":
        path = "fast" if kind in at.facts["fast_model_types"] else "general"
        return True, f"{kind} takes Unsloth's {path} path"
    return True, f"{kind} is a causal model that transformers knows"


def _trainer_args(at: Situation) -> tuple[bool, str] | None:
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
                return (
                    False,
                    f"{key}.{name}: {row.config} has no such argument{nearest(name, names)}",
                )
    named = ", ".join([*at.spec.trainer_args, *section])
    return (True, named) if named else None


def _names(at: Situation) -> tuple[bool, str] | None:
    training = at.spec.training
    for key, value, table in (
        ("optimizer", training.optimizer, "optimizers"),
        ("schedule", training.schedule, "schedules"),
    ):
        known = list(at.facts[table])
        if value not in known:
            return False, f"training.{key}: no {value!r} in transformers{nearest(value, known)}"
    return None


def _image(at: Situation) -> tuple[bool, str]:
    if at.image is None:
        flavour = "cuda" if at.gpus else "cpu"
        named = f"--image {at.spec.image} is not one" if at.spec.image else "there is none"
        return False, f"no {flavour} image of it: {named}"
    if at.image.how is None:
        return False, at.image.reason
    if at.engine == "process":
        return True, f"a venv is made from the {at.image.flavour} lock"
    how = {"present": "is here", "pull": "is pulled", "build": "is built"}[at.image.how]
    return True, f"{at.image.ref} {how}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


RULES: dict[str, tuple[Rule, type[AligntuneError], str]] = {
    "algorithm": (_algorithm, SpecError, "The README's table says what runs where"),
    "gpu": (_gpu, HardwareError, "Use --backend trl"),
    "driver": (_driver, HardwareError, "Update the NVIDIA driver, or use --gpus 0"),
    "capability": (_capability, HardwareError, "Use a newer GPU, or --gpus 0"),
    "model": (_model, ModelError, "Use a causal language model"),
    "trainer_args": (_trainer_args, SpecError, "Mend the name or leave it out"),
    "names": (_names, SpecError, "Mend the name or leave it out"),
    "image": (_image, ImageError, "See `aligntune-run images list`"),
}
"""Name -> rule, and where its failure ends a run, the error's class and remedy."""
