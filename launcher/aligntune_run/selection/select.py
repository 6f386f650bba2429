"""The choice of a backend: pure, from the request, the host and what the images publish.

``auto`` picks the first backend, fastest first, whose rules all pass. The first failing rule of a
faster backend is the reason given. The rules are in :mod:`aligntune_run.selection.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from aligntune.algorithms import ALGORITHMS, BACKENDS, TITLES
from aligntune.errors import KINDS, AligntuneError, BackendError
from aligntune.spec.run_spec import RunSpec
from aligntune_run.check import Verdict
from aligntune_run.engines.registry import pick_engine
from aligntune_run.host.types import Gpu, Host, ImageState
from aligntune_run.memory.estimate import Estimate
from aligntune_run.models.facts import ModelFacts
from aligntune_run.plan import Choice, Image
from aligntune_run.selection.rules import BACKEND, MACHINE, Candidate, Facts, Situation


@dataclass(frozen=True)
class Outcome:
    """The outcome of a request, with every verdict.

    Attributes:
        verdicts: of every rule: the machine first, then each backend, the faster one first.
        choice: None if nothing can run the request.
        refusal: why nothing can run it; None if something can.
        rule: the rule that decided; empty if no rule failed for the first preference.
        estimate: the memory training needs, with the choice or else the first preference.
    """

    verdicts: tuple[Verdict, ...]
    choice: Choice | None
    refusal: AligntuneError | None
    rule: str
    estimate: Estimate | None

    def require(self) -> Choice:
        """Return the choice.

        Raises:
            AligntuneError: nothing can run the request; the class says why.
        """
        if self.refusal is not None:
            raise self.refusal
        assert self.choice is not None
        return self.choice


def choose(
    spec: RunSpec,
    host: Host,
    model: ModelFacts | None,
    facts: Mapping[str, Facts],
    findings: Sequence[Verdict] = (),
    *,
    trains: bool = True,
) -> Outcome:
    """Choose what runs a request on a host.

    Args:
        spec: the request.
        host: the machine.
        model: facts from the model's files; fields are unknown if the files are not here yet. None
            skips the rules about the model.
        facts: by backend, what its image publishes in ``facts.json``.
        findings: the verdicts on the request's inputs.
        trains: whether the request trains; if so, the memory rule applies.
    """
    outcomes = (
        _choose(spec, host, gpus, model, facts, findings, trains)
        for gpus in gpu_options(spec.gpus, host.gpus)
    )
    first = next(outcomes)
    if first.choice is not None:
        return first
    return next((outcome for outcome in outcomes if outcome.choice is not None), first)


def _choose(
    spec: RunSpec,
    host: Host,
    gpus: tuple[Gpu, ...],
    model: ModelFacts | None,
    facts: Mapping[str, Facts],
    findings: Sequence[Verdict],
    trains: bool,
) -> Outcome:
    """The outcome with these GPUs."""
    situation = situate(spec, host, gpus)
    by_backend = {"": (*findings, *MACHINE.judge(situation))}
    candidates = {
        name: candidate(situation, name, facts[name], model, trains=trains) for name in BACKENDS
    }
    by_backend |= {name: BACKEND.judge(at, name) for name, at in candidates.items()}
    failing = {name: _first_failure(verdicts) for name, verdicts in by_backend.items()}
    verdicts = tuple(verdict for group in by_backend.values() for verdict in group)
    wanted = [spec.backend] if spec.backend != "auto" else list(BACKENDS)
    if spec.backend == "unsloth" and not spec.strict:
        wanted.append("trl")
    chosen = None if failing[""] else next((name for name in wanted if not failing[name]), None)
    if chosen is None:
        strict = spec.strict and spec.backend != "auto"
        missed = failing[""] or failing[wanted[0] if strict else wanted[-1]]
        assert missed is not None
        estimate = candidates[missed.backend or wanted[0]].estimate
        return Outcome(verdicts, None, _refusal(spec, missed), missed.rule, estimate)
    missed = failing[wanted[0]] if wanted[0] != chosen else None
    image, estimate = candidates[chosen].image, candidates[chosen].estimate
    rule = missed.rule if missed else ""
    assert image is not None
    assert image.how is not None, "the image rule has passed"
    choice = Choice(
        backend=chosen,
        flavour=image.flavour,
        engine=situation.engine,
        image=Image(image.ref, image.id, image.how, image.lock_hash)
        if situation.in_containers
        else None,
        lock_hash=image.lock_hash,
        gpus=tuple(gpu.uuid for gpu in situation.gpus),
        reason=_reason(spec, chosen, missed, situation.gpus),
        warnings=_warnings(spec, chosen, missed, (*by_backend[""], *by_backend[chosen])),
        verdicts=verdicts,
        rule=rule,
        estimate=estimate,
    )
    return Outcome(verdicts, choice, None, rule, estimate)


def bare_request(backend: str = "auto", engine: str = "auto", gpus: str = "auto") -> RunSpec:
    """A minimal request, used to judge the machine before there is a real one."""
    return RunSpec.model_validate(
        {
            "algorithm": next(iter(ALGORITHMS)),
            "model": {"name": "model"},
            "dataset": {"name": "data"},
            "backend": backend,
            "engine": engine,
            "gpus": gpus,
        }
    )


def situate(spec: RunSpec, host: Host, gpus: tuple[Gpu, ...]) -> Situation:
    """Decide where a request would run; the rules decide whether it can run there."""
    return Situation(spec, host, pick_engine(spec.engine, host), gpus)


def judge_machine(at: Situation, facts: Mapping[str, Facts]) -> tuple[Verdict, ...]:
    """The verdicts of the rules that look only at the machine, whatever is requested."""
    of_backends = (
        BACKEND.judge(candidate(at, name, facts[name], None), name, about="machine")
        for name in BACKENDS
    )
    return (*MACHINE.judge(at, about="machine"), *chain.from_iterable(of_backends))


def candidate(
    at: Situation, backend: str, facts: Facts, model: ModelFacts | None, *, trains: bool = True
) -> Candidate:
    """One backend in one situation, with the image it would use."""
    return Candidate(
        at.spec,
        at.host,
        at.engine,
        at.gpus,
        backend=backend,
        facts=facts,
        image=pick_image(at.host.images, backend, at.gpus),
        model=model,
        trains=trains,
    )


def gpu_options(wanted: str, gpus: Sequence[Gpu]) -> list[tuple[Gpu, ...]]:
    """The sets of GPUs a run could get, the best first; ``auto`` is one GPU, or none without any.

    Free GPUs come first: without one of our runs, without another program, and with the most free
    memory.
    """
    if wanted == "all":
        return [tuple(gpus)]
    free_first = sorted(
        gpus, key=lambda gpu: (gpu.leased is not None, bool(gpu.users), -gpu.free, gpu.index)
    )
    if wanted in ("auto", "1"):
        return [(gpu,) for gpu in free_first] or [()]
    if wanted.isdigit():
        return [tuple(free_first[: int(wanted)])]
    named = (
        gpu for entry in wanted.split(",") for gpu in gpus if entry in (str(gpu.index), gpu.uuid)
    )
    return [tuple(dict.fromkeys(named))]


def pick_image(
    images: Sequence[ImageState], backend: str, gpus: Sequence[Gpu]
) -> ImageState | None:
    """A backend's image: the CUDA one with a GPU; without, the small CPU one if it is available."""
    flavours = ("cuda",) if gpus else ("cpu", "cuda")
    states = [
        state
        for flavour in flavours
        for state in images
        if (state.backend, state.flavour) == (backend, flavour)
    ]
    return next((state for state in states if state.how), states[0] if states else None)


def require(verdicts: Sequence[Verdict]) -> None:
    """Raise the first failure of the machine's rules.

    Raises:
        AligntuneError: a rule failed; the class says why.
    """
    missed = _first_failure(verdicts)
    if missed is not None:
        raise _error(missed)


def _first_failure(verdicts: Sequence[Verdict]) -> Verdict | None:
    return next((verdict for verdict in verdicts if not verdict.passed), None)


def _refusal(spec: RunSpec, missed: Verdict) -> AligntuneError:
    unavailable = missed.backend and BACKEND.checks[missed.rule].about != "request"
    if spec.strict and missed.backend == "unsloth" and unavailable:
        return BackendError(
            f"--strict: {TITLES['unsloth']} is unavailable: {missed.evidence}",
            "Leave out --strict to fall back to TRL",
        )
    return _error(missed)


def _error(missed: Verdict) -> AligntuneError:
    start = f"{TITLES[missed.backend]}: " if missed.backend else ""
    return KINDS[missed.kind](f"{start}{missed.evidence}", missed.remedy)


def _reason(spec: RunSpec, chosen: str, missed: Verdict | None, gpus: Sequence[Gpu]) -> str:
    where = f"on {', '.join(gpu.name for gpu in gpus)}" if gpus else "on the CPU"
    if spec.backend == chosen:
        why = "as requested"
    elif missed is not None:
        why = f"not {TITLES[missed.backend]}: {missed.evidence}"
    else:
        why = "every rule of the fastest backend passes"
    return f"{TITLES[chosen]} {where} ({why})"


def _warnings(
    spec: RunSpec, chosen: str, missed: Verdict | None, verdicts: Sequence[Verdict]
) -> tuple[str, ...]:
    """What the user must not miss: that a requested backend is unavailable, and rules' warnings."""
    warned = (verdict for verdict in verdicts if verdict.level == "warn")
    warnings = [". ".join(filter(None, (verdict.evidence, verdict.remedy))) for verdict in warned]
    if missed is not None and spec.backend != "auto":
        warnings.insert(
            0,
            f"{TITLES[spec.backend]} is unavailable: {missed.evidence}. "
            f"Training with {TITLES[chosen]} instead; --strict makes this an error",
        )
    return tuple(warnings)
