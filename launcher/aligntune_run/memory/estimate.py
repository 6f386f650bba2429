"""How much memory a training takes at its peak.

Pure: from the request and the facts of its model. docs/memory.md has the formulas in words, and how
far off they were where it was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aligntune.spec.run_spec import RunSpec
from aligntune_run.memory.footprint import GIB, MIB, Work
from aligntune_run.memory.optimizers import PAGED
from aligntune_run.models.facts import ModelFacts

CPU_IMPORTS = {"trl": 520 * 10**6, "unsloth": 1070 * 10**6}
"""Bytes of main memory that a backend's worker holds on a CPU once its libraries are imported."""

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
