"""What rules look at, and the two groups of rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aligntune.spec.run_spec import RunSpec
from aligntune_run.check import Scope
from aligntune_run.engines.registry import engine_kind
from aligntune_run.host.types import Gpu, Host, ImageState
from aligntune_run.memory.estimate import Estimate, estimate
from aligntune_run.models.facts import ModelFacts

Facts = Mapping[str, Any]
"""One backend's ``facts.json``."""

BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Situation:
    """The input of a rule about the machine.

    Attributes:
        engine: the engine that would run the request.
        gpus: the GPUs it would get.
    """

    spec: RunSpec
    host: Host
    engine: str
    gpus: tuple[Gpu, ...]

    @property
    def in_containers(self) -> bool:
        """Whether it would run in a container of this host's engine."""
        return engine_kind(self.engine).in_containers


@dataclass(frozen=True, kw_only=True)
class Candidate(Situation):
    """The input of a rule about a backend: the situation, and this backend in one flavour.

    Attributes:
        model: facts about the model; None if no model is loaded.
        trains: whether the request trains, or uses a model that was trained.
    """

    backend: str
    facts: Facts
    image: ImageState | None
    model: ModelFacts | None
    trains: bool = True

    @property
    def bf16(self) -> bool:
        """Whether the device supports bfloat16."""
        if self.gpus:
            return all(gpu.capability >= BF16_CAPABILITY for gpu in self.gpus)
        return self.host.bf16

    @cached_property
    def estimate(self) -> Estimate | None:
        """The memory training needs."""
        if not self.trains or self.model is None:
            return None
        return estimate(self.spec, self.model, self.backend, cuda=bool(self.gpus), bf16=self.bf16)

    @property
    def derived(self) -> bool:
        """Whether the image is the user's own, which can contain more than its facts say."""
        return self.spec.image is not None


MACHINE = Scope[Situation]()
"""The rules that apply once, to every backend."""

BACKEND = Scope[Candidate]()
"""The rules that apply to each backend."""
