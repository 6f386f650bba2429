"""How much memory a training takes at its peak, and what would make it take less.

Pure: from the request and the facts of its model. docs/memory.md has the formulas in words, and how
far off they were where it was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aligntune.spec import RunSpec
from aligntune_run.footprint import GIB, MIB, PAGED, Work
from aligntune_run.models import ModelFacts

__all__ = ["CPU_IMPORTS", "GPU_CONTEXT", "Estimate", "changes", "estimate"]

CPU_IMPORTS = 520 * 10**6
"""Bytes of main memory that the worker holds once its libraries are imported; TRL, CPU."""

GPU_CONTEXT = GIB // 2
"""Bytes of a GPU that CUDA's own context takes; not measured here."""

LAZY = 46 * 10**6
"""Bytes of what is imported and set up later than the rest."""

SLACK = 64 * MIB
"""Freed memory that glibc keeps at the top of the heap at most, twice its mmap threshold."""


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
        "optimizer": work.optimizer(unknown=2.0),
        "reference": work.reference,
        "critic": work.critic,
        "overhead": GPU_CONTEXT if work.cuda else LAZY,
    }
    activations = work.kept + work.critic_kept
    summed = work.gradients if work.spec.training.gradient_accumulation > 1 else 0
    slack = min(SLACK, activations + work.head)
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
    """What is there in any case: no activations, and no optimizer that is not known.

    On a CPU frozen weights are pages of their file, which the system may take away.
    """
    spec = work.spec
    in_file = not work.cuda and work.adapted and work.quantization == "none"
    state = 0 if in_file else work.weights
    states = work.optimizer(unknown=0.0)
    if spec.training.optimizer.startswith(PAGED):
        states = 0
    training = 4 * work.adapter + work.gradients + states
    return round(0.9 * (state + training))


def changes(
    spec: RunSpec,
    model: ModelFacts,
    backend: str,
    *,
    cuda: bool,
    bf16: bool,
    available: int,
) -> tuple[str, ...]:
    """The smallest changes with which the expected memory fits, as words to be typed.

    Tried in the order of least harm, each on top of the ones before where those do not suffice.

    Args:
        spec: the request.
        model: what its model's files say.
        backend: ``trl`` or ``unsloth``.
        cuda: whether it trains on a GPU.
        bf16: whether the device computes in bfloat16.
        available: bytes.

    Returns:
        All words together, one change each; empty where it fits, nothing is known, or nothing
        helps.
    """

    def size(of: RunSpec) -> int | None:
        found = estimate(of, model, backend, cuda=cuda, bf16=bf16)
        return None if found is None else found.expected

    now = size(spec)
    if now is None or now <= available:
        return ()
    words: list[str] = []
    for steps in (_smaller_batches, _checkpointing, _adapter, _four_bits, _shorter):
        best: tuple[str, RunSpec] | None = None
        for word, changed in steps(spec):
            then = size(changed)
            if then is None or then >= now:
                continue
            best, now = (word, changed), then
            if now <= available:
                return (*words, word)
        if best is not None:
            words.append(best[0])
            spec = best[1]
    return ()


Step = tuple[str, RunSpec]


def _with(spec: RunSpec, **sections: dict[str, object]) -> RunSpec:
    """``spec`` with some keys of some sections changed."""
    values = spec.model_dump()
    for name, keys in sections.items():
        values[name] = {**values[name], **keys}
    return RunSpec.model_validate(values)


def _smaller_batches(spec: RunSpec) -> Iterator[Step]:
    """Fewer sequences at once, with more batches a step, so that a step learns from as many."""
    training = spec.training
    size = training.batch_size
    for smaller in range(size - 1, 0, -1):
        if size % smaller:
            continue
        more = training.gradient_accumulation * size // smaller
        keys: dict[str, object] = {"batch_size": smaller, "gradient_accumulation": more}
        yield (
            f"--batch-size {smaller} --set training.gradient_accumulation={more}",
            _with(spec, training=keys),
        )


def _checkpointing(spec: RunSpec) -> Iterator[Step]:
    if spec.training.gradient_checkpointing is not True:
        changed = _with(spec, training={"gradient_checkpointing": True})
        yield "--set training.gradient_checkpointing=true", changed


def _adapter(spec: RunSpec) -> Iterator[Step]:
    if spec.adapter.type == "none":
        yield "--lora-rank 16", _with(spec, adapter={"type": "lora", "rank": 16})


def _four_bits(spec: RunSpec) -> Iterator[Step]:
    if spec.adapter.type != "none" and spec.model.quantization != "4bit":
        yield "--load-in-4bit", _with(spec, model={"quantization": "4bit"})


def _shorter(spec: RunSpec) -> Iterator[Step]:
    """Shorter rows, halved and halved again."""
    online = spec.row.family == "online"
    key = "max_completion_length" if online else "max_length"
    section = "rl" if online else "training"
    length = spec.rl.max_completion_length if online else spec.training.max_length or 2048
    while length > 128:
        length //= 2
        word = f"--set rl.{key}={length}" if online else f"--max-length {length}"
        yield word, _with(spec, **{section: {key: length}})
