"""Finds the smallest changes to a request that make it fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aligntune.spec.run_spec import RunSpec
from aligntune_run.memory.estimate import estimate
from aligntune_run.memory.footprint import UNKNOWN_LENGTH
from aligntune_run.models.facts import ModelFacts

SHORTEST = 128
"""Rows are not shortened below this many tokens."""


def changes(
    spec: RunSpec,
    model: ModelFacts,
    backend: str,
    *,
    cuda: bool,
    bf16: bool,
    available: int,
    figure: Literal["expected", "high"] = "expected",
) -> tuple[str, ...]:
    """The smallest changes that make a request fit in memory, as command-line arguments.

    Changes are tried from the least to the most harmful, each added to the previous ones. Then
    those that are not needed are removed.

    Args:
        spec: the request.
        model: facts from the model's files.
        backend: ``trl`` or ``unsloth``.
        cuda: whether it trains on a GPU.
        bf16: whether the device supports bfloat16.
        available: the available memory in bytes.
        figure: the figure of the estimate that must fit.

    Returns:
        The arguments, one per change. Empty if the request fits, if nothing is known, or if nothing
        helps.
    """

    def size(made: Sequence[Change]) -> int:
        found = estimate(_with(spec, made), model, backend, cuda=cuda, bf16=bf16)
        return 0 if found is None else getattr(found, figure)

    made: list[Change] = []
    now = size(made)
    for steps in STEPS:
        if now <= available:
            break
        before = list(made)
        for step in steps(_with(spec, made)):
            then = size([*before, step])
            if then >= now:
                continue
            made, now = [*before, step], then
            if now <= available:
                break
    if now > available:
        return ()
    for step in list(made):
        rest = [other for other in made if other is not step]
        if size(rest) <= available:
            made = rest
    return tuple(step.words for step in made)


@dataclass(frozen=True)
class Change:
    """A change to a request: the keys it sets, by section."""

    keys: Mapping[str, Mapping[str, Any]]

    @property
    def words(self) -> str:
        """The arguments, as ``--set``: the last one counts, whatever else the command has."""
        return " ".join(
            f"--set {section}.{name}={str(value).lower()}"
            for section, keys in self.keys.items()
            for name, value in keys.items()
        )


def _with(spec: RunSpec, made: Sequence[Change]) -> RunSpec:
    values = spec.model_dump()
    for change in made:
        for section, keys in change.keys.items():
            values[section] = {**values[section], **keys}
    return RunSpec.model_validate(values)


def _smaller_batches(spec: RunSpec) -> Iterator[Change]:
    """Fewer sequences at once, with more accumulation, so that a step learns from as many."""
    training = spec.training
    size = training.batch_size
    for smaller in range(size - 1, spec.row.least_batch_size - 1, -1):
        if size % smaller == 0:
            more = training.accumulation() * size // smaller
            yield Change({"training": {"batch_size": smaller, "gradient_accumulation": more}})


def _checkpointing(spec: RunSpec) -> Iterator[Change]:
    yield Change({"training": {"gradient_checkpointing": True}})


def _adapter(spec: RunSpec) -> Iterator[Change]:
    if spec.adapter.type == "none":
        yield Change({"adapter": {"type": "lora", "rank": 16}})


def _four_bits(spec: RunSpec) -> Iterator[Change]:
    yield Change({"adapter": {"type": "lora"}, "model": {"quantization": "4bit"}})


def _shorter(spec: RunSpec) -> Iterator[Change]:
    """Shorter rows or completions, halved repeatedly."""
    if spec.row.online:
        for length in _halves(spec.rl.max_completion_length):
            yield Change({"rl": {"max_completion_length": length}})
    else:
        for length in _halves(spec.training.max_length or 2 * UNKNOWN_LENGTH):
            yield Change({"training": {"max_length": length}})


def _shorter_prompts(spec: RunSpec) -> Iterator[Change]:
    if spec.row.online:
        for length in _halves(spec.rl.max_prompt_length or 2 * UNKNOWN_LENGTH):
            yield Change({"rl": {"max_prompt_length": length}})


def _fewer_completions(spec: RunSpec) -> Iterator[Change]:
    """Fewer completions per step, in whole groups, because they are all sampled at once."""
    training = spec.training
    group = spec.rl.num_generations if spec.row.grouped else 1
    for fewer in range(training.accumulation() - 1, 0, -1):
        whole = training.batch_size * fewer % group == 0
        if spec.row.online and whole:
            yield Change({"training": {"gradient_accumulation": fewer}})


def _halves(length: int) -> Iterator[int]:
    while length > SHORTEST:
        length //= 2
        yield length


STEPS = (
    _smaller_batches,
    _checkpointing,
    _adapter,
    _four_bits,
    _shorter,
    _shorter_prompts,
    _fewer_completions,
)
"""From the least to the most harmful."""
