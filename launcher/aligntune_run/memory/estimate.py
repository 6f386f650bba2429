"""Estimates the peak memory of training.

Pure: from the request and the model's facts. docs/memory.md explains the formulas and compares
them with measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aligntune.spec.run_spec import RunSpec
from aligntune_run.memory.footprint import GIB, MIB, Work
from aligntune_run.memory.optimizers import PAGED
from aligntune_run.models.facts import ModelFacts

CPU_IMPORTS = {"trl": 520 * 10**6, "unsloth": 1070 * 10**6}
"""Bytes of main memory a backend's worker holds on a CPU after its imports."""

GPU_CONTEXT = GIB // 2
"""Bytes of a GPU for CUDA's own context; not measured here."""

LAZY = 46 * 10**6
"""Bytes of late imports and set-up."""

SLACK = 64 * MIB
"""Maximum freed memory glibc keeps at the top of the heap: twice its mmap threshold."""


@dataclass(frozen=True)
class Estimate:
    """Peak memory in bytes: of the GPU, or on a CPU of the worker's process beyond
    :data:`CPU_IMPORTS`.

    It does not include reward models, the user's own rewards, the data, and files cached by the
    system. It assumes that rows are as long as the request allows; shorter rows take less.

    Attributes:
        low: with less than this, training certainly fails.
        expected: the expected memory, the sum of ``parts``.
        high: with this, training should work.
        parts: (name, bytes) at the peak.
    """

    low: int
    expected: int
    high: int
    parts: tuple[tuple[str, int], ...]


def estimate(
    spec: RunSpec, model: ModelFacts, backend: str, *, cuda: bool, bf16: bool
) -> Estimate | None:
    """Estimate the memory of training; None if the model's facts are not sufficient.

    Args:
        spec: the request.
        model: facts from the model's files.
        backend: ``trl`` or ``unsloth``.
        cuda: whether it trains on a GPU.
        bf16: whether the device supports bfloat16.
    """
    work = _work(spec, model, backend, cuda, bf16)
    if work is None:
        return None
    parts = max(_moments(work), key=lambda moment: sum(moment.values()))
    shown = tuple((name, size) for name, size in parts.items() if size)
    expected = sum(parts.values())
    return Estimate(_least(work), expected, round(expected * (1.4 if cuda else 1.25)), shown)


def _work(spec: RunSpec, model: ModelFacts, backend: str, cuda: bool, bf16: bool) -> Work | None:
    if model.shape is None or model.parameters is None:
        return None
    if model.quantized not in (None, "bitsandbytes"):
        return None
    asked = spec.training.precision
    half = asked != "fp32" if asked != "auto" else cuda or bf16
    return Work(spec, model, model.shape, model.parameters, backend, cuda, half)


def _moments(work: Work) -> Iterator[dict[str, int]]:
    """The moments of training that can be the peak, each with its parts."""
    state = {
        "weights": work.weights,
        "adapter": 4 * work.adapter,
        "optimizer": work.optimizer,
        "reference": work.reference,
        "critic": work.critic,
        "overhead": GPU_CONTEXT if work.cuda else LAZY,
    }
    activations = work.kept + work.critic_kept
    summed = work.gradients if work.spec.training.accumulation() > 1 else 0
    slack = min(SLACK, activations + work.head) + work.assembled
    loss = state | {
        "gradients": summed + work.head_gradient,
        "activations": activations,
        "logits": work.head,
    }
    layer = loss | {"activations": activations + work.recomputed, "logits": 0}
    # A tied matrix also gets a gradient as embedding, which is computed separately and added.
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
    """The memory needed in any case, without activations. An unknown optimizer counts nothing, and
    neither do its gradients, because some optimizers consume them as they are computed.

    On a CPU, frozen weights are pages of their file, which the system can drop.
    """
    in_file = not work.cuda and work.adapted and work.quantization == "none"
    held = 4 * work.adapter + (0 if in_file else work.weights)
    if work.optimizer_is_known:
        paged = work.spec.training.optimizer.startswith(PAGED)
        held += work.gradients + (0 if paged else work.optimizer)
    return round(0.9 * held)
