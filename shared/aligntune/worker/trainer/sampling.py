"""The order of training rows: a function of seed and epoch, so that a resumed run sees the same.

transformers draws the order of length-grouped batches from the global random state, which a run
resumed in the middle of an epoch no longer has as it was when the epoch began. TRL draws the order
of prompts from a generator that goes on from epoch to epoch, and begins anew in a resumed run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class SeededSampler:
    """A sampler whose order is drawn anew each epoch, from ``seed`` + epoch.

    Args:
        sampler: one that draws from its ``generator``.
        seed: of the run.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer as an epoch begins, and as one is gone on with."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        import torch

        self._sampler.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)


class RepeatedSampler(SeededSampler):
    """TRL's sampler of prompts, its order in each epoch the one that it has without a stop."""

    def __iter__(self) -> Iterator[int]:
        import torch

        generator = torch.Generator().manual_seed(self._sampler.seed)
        for _ in range(self._epoch):
            torch.randperm(self._sampler.num_samples, generator=generator)
        self._sampler.generator = generator
        return iter(self._sampler)


SAMPLERS = {"LengthGroupedSampler": SeededSampler, "RepeatSampler": RepeatedSampler}
"""By the name of the sampler; accelerate seeds the plain random one itself."""


def seeded_order(trainer: type[Any]) -> type[Any]:
    """``trainer`` with an order of rows that a resumed run repeats."""

    class SeededOrder(trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *arguments: Any, **named: Any) -> Any:
            sampler = super()._get_train_sampler(*arguments, **named)
            kind = SAMPLERS.get(type(sampler).__name__)
            return kind(sampler, self.args.data_seed or self.args.seed) if kind else sampler

    SeededOrder.__name__ = trainer.__name__
    return SeededOrder
