"""The order of training rows: a function of seed and epoch, so that a resumed run sees the same.

transformers draws the order of length-grouped batches from the global random state, which has moved
on when a run is resumed in the middle of an epoch. TRL draws the order of prompts from a generator
that continues from epoch to epoch, and starts again in a resumed run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class SeededSampler:
    """A sampler that draws a new order each epoch, seeded with ``seed`` + epoch.

    Args:
        sampler: a sampler that draws from its ``generator``.
        seed: the run's seed.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The trainer calls this when an epoch starts or is resumed."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        import torch

        self._sampler.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)


class RepeatedSampler(SeededSampler):
    """TRL's sampler of prompts, with the order that it has in an uninterrupted run."""

    def __iter__(self) -> Iterator[int]:
        import torch

        generator = torch.Generator().manual_seed(self._sampler.seed)
        for _ in range(self._epoch):
            torch.randperm(self._sampler.num_samples, generator=generator)
        self._sampler.generator = generator
        return iter(self._sampler)


SAMPLERS = {"LengthGroupedSampler": SeededSampler, "RepeatSampler": RepeatedSampler}
"""By class name of the sampler. accelerate seeds the plain random sampler itself."""


class SeededOrder:
    """Mixin: gives training rows an order that a resumed run repeats."""

    args: Any

    def _get_train_sampler(self, *arguments: Any, **named: Any) -> Any:
        sampler = super()._get_train_sampler(*arguments, **named)  # type: ignore[misc]
        kind = SAMPLERS.get(type(sampler).__name__)
        return kind(sampler, self.args.data_seed or self.args.seed) if kind else sampler
