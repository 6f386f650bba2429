"""What a rule may look at, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from aligntune.errors import AligntuneError
from aligntune.spec.run_spec import RunSpec
from aligntune_run.engines.registry import ENGINES
from aligntune_run.host.types import Gpu, Host, ImageState
from aligntune_run.memory.estimate import Estimate, estimate
from aligntune_run.models.facts import ModelFacts
from aligntune_run.plan import Verdict

Facts = Mapping[str, Any]
"""One backend's ``facts.json``."""

BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Situation:
    """What a rule of the machine may look at.

    Attributes:
        engine: what would carry the request out.
        gpus: what it would get.
    """

    spec: RunSpec
    host: Host
    engine: str
    gpus: tuple[Gpu, ...]

    @property
    def in_containers(self) -> bool:
        """Whether it would run in a container of this host's engine."""
        return ENGINES[self.engine].in_containers


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
    def estimate(self) -> Estimate | None:
        """The memory that training takes."""
        if not self.trains or self.model is None:
            return None
        return estimate(self.spec, self.model, self.backend, cuda=bool(self.gpus), bf16=self.bf16)

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


def either(passed: bool, evidence: str, remedy: str = "") -> Said:
    return Said("pass" if passed else "fail", evidence, remedy)
