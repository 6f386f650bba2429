"""Compare the trainer's loss with the model's own, and packed rows with rows by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aligntune.errors import SpecError
from aligntune.failures import first_line
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.inputs.tokenize import IGNORED
from aligntune.worker.modeling.loss_head import own_log_probs, tolerance, without_router_loss
from aligntune.worker.modeling.modes import quiet

TOKENS = 32
"""The most tokens of the row that is tried."""

LOSS_AGREES = 1e-3
"""Nats per token by which the trainer's loss may differ from the model's own without a note."""

PACKED_AGREES = 1e-4
"""The same between a packed row and the row by itself, in float32."""


def try_losses(trainer: Any, rows: Any, spec: RunSpec) -> str | None:
    """Compute the loss of one short row in several ways, before the first step.

    The comparison takes three forward passes of at most 64 tokens, without gradients. The
    trainer's figures and the random state stay as they are.

    Args:
        trainer: of rows with ``input_ids`` and ``labels``.
        rows: as encoded for the trainer, before packing.
        spec: the request.

    Returns:
        a note if the trainer's loss is not the model's cross entropy.

    Raises:
        SpecError: rows that are packed, or flattened without padding, see each other.
    """
    ids = next((row["input_ids"][:TOKENS] for row in rows if len(row["input_ids"]) > 1), None)
    if ids is None:
        return None
    with _trial(trainer):
        alone = _loss(trainer, [ids])
        own = _own_loss(trainer, ids)
        _require_separate(trainer, ids, alone, spec)
    allowed = max(LOSS_AGREES, tolerance(trainer.model) if _half(trainer.model) else 0.0)
    if abs(alone - own) <= allowed:
        return None
    return (
        f"the trainer's loss of a row is {alone:.4f}, but the model's own cross entropy is "
        f"{own:.4f}: {type(trainer.model).__name__} computes its logits in another way than the "
        "trainer. Its evaluation uses the model's own"
    )


def _require_separate(trainer: Any, ids: list[int], alone: float, spec: RunSpec) -> None:
    """Refuse a model in which a row sees a copy of itself that is packed in front of it."""
    packed = trainer.data_collator([_feature(ids, learned=False), _feature(ids)])
    if packed["input_ids"].shape[0] > 1:  # a batch of padded rows
        return
    name = spec.model.name
    remedy = (
        "Set training.packing=false"
        if spec.training.packing
        else "Set trainer_args.padding_free=false"
    )
    try:
        behind = _loss_of(trainer, packed)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise SpecError(
            f"{name} does not take several rows in one sequence: {first_line(error)}", remedy
        ) from error
    allowed = tolerance(trainer.model) if _half(trainer.model) else PACKED_AGREES
    if abs(behind - alone) > allowed * max(1.0, abs(alone)):
        raise SpecError(
            f"packed rows see each other in {name} ({trainer.model.config.model_type}, "
            f"{trainer.model.config._attn_implementation} attention): the loss of a row is "
            f"{alone:.4f} by itself and {behind:.4f} behind another row",
            remedy,
        )


def _feature(ids: list[int], learned: bool = True) -> dict[str, Any]:
    labels = ids if learned else [IGNORED] * len(ids)
    return {"input_ids": ids, "labels": labels, "seq_lengths": [len(ids)]}


def _loss(trainer: Any, rows: list[list[int]]) -> float:
    return _loss_of(trainer, trainer.data_collator([_feature(row) for row in rows]))


def _loss_of(trainer: Any, batch: dict[str, Any]) -> float:
    return float(trainer.compute_loss(trainer.model, trainer._prepare_inputs(dict(batch))))


def _own_loss(trainer: Any, ids: list[int]) -> float:
    import torch

    device = next(trainer.model.parameters()).device
    row = torch.tensor([ids], device=device)
    return -float(own_log_probs(trainer.model, row, torch.ones_like(row)).mean())


def _half(model: Any) -> bool:
    """Whether losses are rounded to half precision: FlashAttention takes nothing else."""
    import torch

    return model.dtype != torch.float32 or "flash" in str(model.config._attn_implementation)


@contextmanager
def _trial(trainer: Any) -> Iterator[None]:
    """Evaluation mode without the router's loss; the trainer's figures are kept."""
    import torch

    model = trainer.model
    kept = {mode: dict(values) for mode, values in getattr(trainer, "_metrics", {}).items()}
    router = getattr(trainer, "aux_loss_enabled", None)
    half = torch.bfloat16 if trainer.args.bf16 else torch.float16
    device = next(model.parameters()).device.type
    computes = torch.autocast(device, dtype=half, enabled=_half(model))
    if router is not None:
        trainer.aux_loss_enabled = False
    try:
        with quiet(model), without_router_loss(model), computes:
            yield
    finally:
        if router is not None:
            trainer.aux_loss_enabled = router
        for mode, values in kept.items():
            trainer._metrics[mode].clear()
            trainer._metrics[mode].update(values)
