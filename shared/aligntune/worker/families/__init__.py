"""Families of algorithms: what data becomes, what the trainer is told, what is measured.

One module each, of one shape (:class:`Family`), so that :mod:`aligntune.worker.train` reads the
same whatever is trained. Free of torch until something is encoded or measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from aligntune.algorithms import Algorithm
from aligntune.rewards import Reward
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.inputs.tokenize import Tokenized
from aligntune.worker.metrics import Measurement

if TYPE_CHECKING:
    from aligntune.worker.modeling.loss_head import LossHead


@dataclass(frozen=True)
class Setup:
    """What a run has at hand once its model is loaded.

    Attributes:
        tokenizer: of the model.
        max_length: tokens that a sequence may have, None where nothing limits it.
        rewards: guarded reward functions, in the order of ``spec.rewards``.
        inference: makes the model ready to generate for as long as the context lasts.
        head: how an evaluation computes.
    """

    spec: RunSpec
    tokenizer: Any
    max_length: int | None
    rewards: tuple[Reward, ...]
    inference: Callable[[Any], Any]
    head: LossHead


class Family(Protocol):
    """What a module of this package has."""

    BEST: tuple[str, bool]
    """The figure that tells the best checkpoint, and whether more of it is better."""

    PREPARED: bool
    """Whether the trainer is kept from preparing rows, as it would do it over again."""

    def arguments(self, spec: RunSpec, max_length: int | None) -> dict[str, Any]:
        """The trainer's arguments that only this family has, or has otherwise."""

    def encode(self, dataset: Any, setup: Setup, train: bool) -> Tokenized:
        """Canonical rows as the trainer takes them."""

    def extras(self, setup: Setup) -> dict[str, Any]:
        """What the trainer's constructor is given beside model, arguments and data."""

    def measure(self, model: Any, rows: Any, setup: Setup, frozen: Any | None) -> Measurement:
        """Evaluate ``model`` on encoded rows; ``frozen`` is the reference, where it is apart."""


def family(row: Algorithm) -> Family:
    """The module of an algorithm's family."""
    return cast(Family, import_module(f"{__name__}.{row.family}"))


def trainer_classes(row: Algorithm) -> tuple[type[Any], type[Any]]:
    """An algorithm's trainer and its configuration, as the backend has left them."""
    module = import_module(row.module)
    return getattr(module, row.trainer), getattr(module, row.config)
