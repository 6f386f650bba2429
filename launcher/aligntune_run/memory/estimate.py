"""How much memory a training takes at its peak, and what would make it take less.

Pure: from the request and the facts of its model. docs/memory.md has the formulas in words, and how
far off they were where it was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aligntune.spec.run_spec import GROUPED, RunSpec
from aligntune_run.memory.footprint import GIB, MIB, UNKNOWN_LENGTH, Work
from aligntune_run.memory.optimizers import PAGED
from aligntune_run.models.facts import ModelFacts

__all__ = ["CPU_IMPORTS", "GPU_CONTEXT", "Estimate", "changes", "estimate"]

CPU_IMPORTS = {"trl": 520 * 10**6, "unsloth": 1070 * 10**6}
"""Bytes of main memory that a backend's worker holds on a CPU once its libraries are imported."""

GPU_CONTEXT = GIB // 2
"""Bytes of a GPU that CUDA's own context takes; not measured here."""

LAZY = 46 * 10**6
"""Bytes of what is imported and set up later than the rest."""

SLACK = 64 * MIB
"""Freed memory that glibc keeps at the top of the heap at most, twice its mmap threshold."""

SHORTEST = 128
"""Tokens below which rows are not made shorter."""


@dataclass(frozen=True)
class Estimate:
    """Memory at the peak, in bytes: of the GPU where one trains, else of the worker's process
    beyond :data:`CPU_IMPORTS`.

    Not in it: reward models and what rewards of one's own hold, the data itself, and files that the
    system caches. Rows are taken to be as long as the request lets them be; rows that are shorter
    take less.

    Attributes:
        low: with less than this it surely does not run.
        expected: what it takes, of ``parts``.
        high: with this it should run.
        parts: (name, bytes) of what is there at the peak.
    """

    low: int
    expected: int
    high: int
    parts: tuple[tuple[str, int], ...]


def estimate(
    spec: RunSpec, model: ModelFacts, backend: str, *, cuda: bool, bf16: bool
) -> Estimate | None:
    """What training takes; None where the model's facts do not suffice.

    Args:
        spec: the request.
        model: what its model's files say.
        backend: ``trl`` or ``unsloth``.
        cuda: whether it trains on a GPU.
        bf16: whether the device computes in bfloat16.
    """
    work = _work(spec, model, backend, cuda, bf16)
    if work is None:
        return None
    parts = max(_moments(work), key=lambda moment: sum(moment.values()))
    told = tuple((name, size) for name, size in parts.items() if size)
    expected = sum(parts.values())
    return Estimate(_least(work), expected, round(expected * (1.4 if cuda else 1.25)), told)


def _work(spec: RunSpec, model: ModelFacts, backend: str, cuda: bool, bf16: bool) -> Work | None:
    if model.shape is None or model.parameters is None:
        return None
    if model.quantized not in (None, "bitsandbytes"):
        return None
    asked = spec.training.precision
    half = asked != "fp32" if asked != "auto" else cuda or bf16
    return Work(spec, model, model.shape, model.parameters, backend, cuda, half)


def _moments(work: Work) -> Iterator[dict[str, int]]:
    """The moments of a training at which memory may be at its peak, each by its parts."""
    state = {
        "weights": work.weights,
        "adapter": 4 * work.adapter,
        "optimizer": work.optimizer,
        "reference": work.reference,
        "critic": work.critic,
        "overhead": GPU_CONTEXT if work.cuda else LAZY,
    }
    activations = work.kept + work.critic_kept
    summed = work.gradients if work.spec.training.gradient_accumulation > 1 else 0
    slack = min(SLACK, activations + work.head) + work.assembled
    loss = state | {
        "gradients": summed + work.head_gradient,
        "activations": activations,
        "logits": work.head,
    }
    layer = loss | {"activations": activations + work.recomputed, "logits": 0}
    # A tied matrix gets a gradient as embedding too, which is made apart and added.
    twice = work.head_gradient if work.shape.tied else 0
    end = state | {
        "gradients": work.gradients + twice,
        "activations": work.recomputed,
        "logits": 0,
    }
    step = state | {"gradients": work.gradients + work.scratch}
    generation = state | {"generation": work.cache}
    evaluation = state | {"evaluation": work.evaluation}
    for moment in (loss, layer, end, step, generation, evaluation):
        yield moment | ({} if work.cuda else {"heap": slack})


def _least(work: Work) -> int:
    """What is there in any case: no activations, and of an optimizer that is not known nothing, nor
    gradients, as some take them in while they are made.

    On a CPU frozen weights are pages of their file, which the system may take away.
    """
    in_file = not work.cuda and work.adapted and work.quantization == "none"
    held = 4 * work.adapter + (0 if in_file else work.weights)
    if work.optimizer_is_known:
        paged = work.spec.training.optimizer.startswith(PAGED)
        held += work.gradients + (0 if paged else work.optimizer)
    return round(0.9 * held)


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
    """The smallest changes with which the memory it takes fits, as words to be typed.

    They are tried in the order of least harm, each on top of those before; of these only what is
    needed stays.

    Args:
        spec: the request.
        model: what its model's files say.
        backend: ``trl`` or ``unsloth``.
        cuda: whether it trains on a GPU.
        bf16: whether the device computes in bfloat16.
        available: bytes.
        figure: which of an estimate is to fit: that which is expected, or the most it may be.

    Returns:
        All words together, one change each; empty where it fits, nothing is known, or nothing
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
        """What to type: as ``--set``, of which the last one counts, whatever else was typed."""
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
    """Fewer sequences at once, with more batches a step, so that a step learns from as many."""
    training = spec.training
    size = training.batch_size
    least = 2 if spec.row.family == "feedback" else 1  # KTO pairs the rows of a batch
    for smaller in range(size - 1, least - 1, -1):
        if size % smaller == 0:
            more = training.gradient_accumulation * size // smaller
            yield Change({"training": {"batch_size": smaller, "gradient_accumulation": more}})


def _checkpointing(spec: RunSpec) -> Iterator[Change]:
    yield Change({"training": {"gradient_checkpointing": True}})


def _adapter(spec: RunSpec) -> Iterator[Change]:
    if spec.adapter.type == "none":
        yield Change({"adapter": {"type": "lora", "rank": 16}})


def _four_bits(spec: RunSpec) -> Iterator[Change]:
    yield Change({"adapter": {"type": "lora"}, "model": {"quantization": "4bit"}})


def _shorter(spec: RunSpec) -> Iterator[Change]:
    """Shorter rows, or completions, halved and halved again."""
    if spec.row.family == "online":
        for length in _halves(spec.rl.max_completion_length):
            yield Change({"rl": {"max_completion_length": length}})
    else:
        for length in _halves(spec.training.max_length or 2 * UNKNOWN_LENGTH):
            yield Change({"training": {"max_length": length}})


def _shorter_prompts(spec: RunSpec) -> Iterator[Change]:
    if spec.row.family == "online":
        for length in _halves(spec.rl.max_prompt_length or 2 * UNKNOWN_LENGTH):
            yield Change({"rl": {"max_prompt_length": length}})


def _fewer_completions(spec: RunSpec) -> Iterator[Change]:
    """Fewer completions a step, in groups that stay whole: they are all sampled at once."""
    training = spec.training
    group = spec.rl.num_generations if spec.row.trainer in GROUPED else 1
    for fewer in range(training.gradient_accumulation - 1, 0, -1):
        whole = training.batch_size * fewer % group == 0
        if spec.row.family == "online" and whole:
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
"""In the order of least harm."""
