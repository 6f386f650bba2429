"""Families of algorithms: how rows are encoded, trainer arguments, and what is measured.

Each family is a module with the same interface (:class:`Family`), so :mod:`aligntune.worker.train`
does not depend on the algorithm. The modules import torch only when they encode or measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from aligntune.algorithms import Algorithm
from aligntune.rewards import Reward
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.metrics import Measurement
from aligntune.worker.text.tokenize import Tokenized

if TYPE_CHECKING:
    from aligntune.worker.modeling.loss_head import LossHead


@dataclass(frozen=True)
class Setup:
    """What a family needs once the model is loaded.

    Attributes:
        tokenizer: of the model.
        max_length: tokens of the longest sequence, None without a limit.
        rewards: guarded reward functions, in the order of ``spec.rewards``.
        inference: a context that prepares the model to generate.
        head: how an evaluation computes.
        ends: tokens that end generation.
    """

    spec: RunSpec
    tokenizer: Any
    max_length: int | None
    rewards: tuple[Reward, ...]
    inference: Callable[[Any], Any]
    head: LossHead
    ends: tuple[int, ...]


class Family(Protocol):
    """The interface of a module of this package."""

    BEST: tuple[str, bool]
    """The figure that selects the best checkpoint, and whether higher is better."""

    PREPARED: bool
    """Whether rows are ready, so that the trainer must not prepare them again."""

    def arguments(self, spec: RunSpec, max_length: int | None) -> dict[str, Any]:
        """The trainer's arguments that are specific to this family."""

    def encode(self, dataset: Any, setup: Setup, train: bool) -> Tokenized:
        """Encode canonical rows for the trainer."""

    def extras(self, setup: Setup) -> dict[str, Any]:
        """Further arguments of the trainer's constructor."""

    def measure(self, model: Any, rows: Any, setup: Setup, frozen: Any | None) -> Measurement:
        """Evaluate ``model`` on encoded rows; ``frozen`` is a separate reference model, if any."""


def family(row: Algorithm) -> Family:
    """The module of an algorithm's family."""
    return cast(Family, import_module(f"{__name__}.{row.family}"))


def trainer_classes(row: Algorithm) -> tuple[type[Any], type[Any]]:
    """An algorithm's trainer and configuration classes, as patched by the backend."""
    module = import_module(row.module)
    return getattr(module, row.trainer), getattr(module, row.config)
