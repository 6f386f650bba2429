"""Compare the trainer's loss with the model's own, and packed rows with rows by themselves."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from aligntune.errors import ModelError, SpecError
from aligntune.failures import first_line
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.modeling.loss_head import (
    LossHead,
    own_log_probs,
    tolerance,
    without_router_loss,
)
from aligntune.worker.modeling.model import plain
from aligntune.worker.modeling.modes import quiet
from aligntune.worker.modeling.token_logprobs import token_log_probs

TOKENS = 32
"""Tokens of the row that is tried; a packed row is repeated up to this length."""

OTHER_NAMES = ("num_local_experts", "n_routed_experts")
"""Of the number of experts, which the trainer reads as ``num_experts``."""

LOSS_AGREES = 1e-3
"""Nats per token by which the trainer's loss may differ from the model's own without a note."""

FUSED = "_fused_forward"
"""The function that TRL puts in place of a model's ``forward``."""

PACKED_AGREES = 1e-4
"""Mean difference in nats between a packed row and the row by itself, in float32."""


def try_losses(trainer: Any, rows: Any, spec: RunSpec) -> tuple[str, ...]:
    """Compute the loss of one short row in several ways, before the first step.

    The comparison takes a few forward passes of at most 64 tokens, without gradients. The
    trainer's figures and the random state stay as they are.

    Args:
        trainer: of rows with ``input_ids`` and ``labels``.
        rows: as encoded for the trainer, before packing.
        spec: the request.

    Returns:
        what the trainer computes in another way than the model, as notes.

    Raises:
        ModelError: the model cannot compute a loss.
        SpecError: rows that are packed, or flattened without padding, see each other.
    """
    ids = next((row["input_ids"][:TOKENS] for row in rows if len(row["input_ids"]) > 1), None)
    if ids is None:
        return ()
    repeated = (ids * TOKENS)[:TOKENS]
    found = [_without_broken_router(trainer, ids)]
    if spec.training.packing and spec.trainer_args.get("packing_strategy") == "wrapped":
        found.append("rows see each other, because packing_strategy=wrapped joins them")
    with _trial(trainer, router=False):
        with _computing(trainer, spec):
            alone, own = _loss(trainer, ids), _own_loss(trainer, ids)
        if _is_cross_entropy(trainer):
            found.append(_compare(trainer, ids, alone, own))
        found.append(_require_separate(trainer, repeated, spec))
    return tuple(note for note in found if note)


def require_right_head(trainer: Any, head: LossHead, spec: RunSpec) -> None:
    """Refuse a trainer that reads log-probabilities through a head that is not the model's.

    Unsloth on a GPU is not tried: its models return no logits to compare with, and it has no models
    with other heads.

    Raises:
        ModelError: TRL's fused head gives other log-probabilities than the model's logits.
    """
    whole = plain(trainer.model)
    forward = getattr(whole.forward, "__func__", whole.forward)
    if head.own or forward.__code__.co_name != FUSED:
        return
    if not head.fuses(trainer.model):
        raise ModelError(
            f"the trainer cannot compute the log-probabilities of {_name(trainer)} "
            f"({spec.model.name}): its head is more than an output matrix",
            "Use another model, or --algo sft, which can use the model's logits",
        )


@contextmanager
def _computing(trainer: Any, spec: RunSpec) -> Iterator[None]:
    """Turn whatever a model raises in its first forward pass into one line."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        traceback.print_exc()
        if spec.training.packing:
            remedy = "Set training.packing=false"
        elif spec.adapter.type != "none":
            remedy = "Use other adapter.targets"
        else:
            remedy = "Use another backend, or another model"
        raise ModelError(
            f"{_name(trainer)} of {spec.model.name} cannot compute a loss: "
            f"{type(error).__name__}: {first_line(error)}",
            remedy,
        ) from error


def _without_broken_router(trainer: Any, ids: list[int]) -> str | None:
    """Turn off the loss of a router that the trainer cannot compute, such as that of a dense model
    whose configuration has its keys.
    """
    import torch

    if not getattr(trainer, "aux_loss_enabled", False):
        return None
    config = plain(trainer.model).config.get_text_config()
    for name in OTHER_NAMES:
        if not hasattr(config, "num_experts") and hasattr(config, name):
            config.num_experts = getattr(config, name)  # saving removes what was added
    try:
        with _trial(trainer, router=True):
            _loss(trainer, ids)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the trainer reads attributes that not every model has
        trainer.aux_loss_enabled = config.output_router_logits = False
        return (
            f"the trainer cannot compute the router's loss of {_name(trainer)} "
            f"({type(error).__name__}: {first_line(error)}), so it trains without that loss"
        )
    return None


def _is_cross_entropy(trainer: Any) -> bool:
    args = trainer.args
    return getattr(args, "loss_type", "nll") == "nll" and not args.label_smoothing_factor


def _compare(trainer: Any, ids: list[int], alone: float, own: float) -> str | None:
    """Have the trainer use the model's own logits if its loss is not the model's cross entropy."""
    allowed = tolerance(trainer.model) if _half(trainer.model) else LOSS_AGREES
    if abs(alone - own) <= allowed:
        return None
    kind = type(plain(trainer.model)).__name__
    seen = (
        f"the trainer's loss of a row is {alone:.4f}, but {kind}'s own cross entropy is {own:.4f}"
    )
    trainer.compute_loss_func = cross_entropy
    if abs(_loss(trainer, ids) - own) <= allowed:
        return f"{seen}. So the loss is computed from the model's logits, which takes more memory"
    trainer.compute_loss_func = None
    return f"{seen}. The evaluation uses the model's own"


def cross_entropy(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """The mean cross entropy of a model's logits, as ``Trainer``'s ``compute_loss_func``."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits = outputs.logits
    return ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch)


def _require_separate(trainer: Any, ids: list[int], spec: RunSpec) -> str | None:
    """Refuse a model in which a row sees a copy of itself that is packed in front of it.

    A copy is what a trained model uses most: it then predicts the row almost surely. If rows are
    padded, a row must not see its padding, which only a note says.
    """
    half = ids[: len(ids) // 2]
    batch = trainer.data_collator([_feature(ids), _feature(half)])
    padded = batch["input_ids"].shape[0] > 1
    name, model = spec.model.name, plain(trainer.model)
    alone = _log_probs(trainer, trainer.data_collator([_feature(half)]))
    remedy = (
        "Set training.packing=false"
        if spec.training.packing
        else "Set trainer_args.padding_free=false"
    )
    try:
        found = _log_probs(trainer, batch)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise SpecError(
            f"{name} does not take several rows in one batch: {first_line(error)}",
            "Set training.batch_size=1" if padded else remedy,
        ) from error
    behind = found[1:, : len(half) - 1] if padded else found[:, len(ids) :]
    difference = float((behind - alone).abs().mean())
    if difference <= (tolerance(model) if _half(model) else PACKED_AGREES):
        return None
    seen = f"the log-probability of a token differs by {difference:.4f} on average"
    if padded:
        return f"{_name(trainer)} sees padding: in a longer batch, {seen}"
    raise SpecError(
        f"packed rows see each other in {name} ({model.config.model_type}, "
        f"{model.config._attn_implementation} attention): behind another row, {seen}",
        remedy,
    )


def _log_probs(trainer: Any, batch: dict[str, Any]) -> Any:
    """Log-probabilities of the tokens of a batch but the first, (B, L - 1)."""
    inputs = trainer._prepare_inputs({key: batch[key] for key in batch if key != "labels"})
    logits = trainer.model(**inputs, use_cache=False).logits
    return token_log_probs(logits[:, :-1], inputs["input_ids"][:, 1:], 1.0)[0]


def _feature(ids: list[int]) -> dict[str, Any]:
    return {"input_ids": ids, "labels": ids, "seq_lengths": [len(ids)]}


def _loss(trainer: Any, ids: list[int]) -> float:
    batch = trainer.data_collator([_feature(ids)])
    return float(trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)))


def _own_loss(trainer: Any, ids: list[int]) -> float:
    import torch

    device = next(trainer.model.parameters()).device
    row = torch.tensor([ids], device=device)
    return -float(own_log_probs(trainer.model, row, torch.ones_like(row)).mean())


def _half(model: Any) -> bool:
    """Whether losses are rounded to half precision: FlashAttention takes nothing else."""
    import torch

    return model.dtype != torch.float32 or "flash" in str(model.config._attn_implementation)


def _name(trainer: Any) -> str:
    return type(plain(trainer.model)).__name__


@contextmanager
def _trial(trainer: Any, router: bool) -> Iterator[None]:
    """Evaluation mode, maybe without the router's loss; the trainer's figures are kept."""
    import torch

    model = trainer.model
    kept = {mode: dict(values) for mode, values in getattr(trainer, "_metrics", {}).items()}
    before = getattr(trainer, "aux_loss_enabled", None)
    half = torch.bfloat16 if trainer.args.bf16 else torch.float16
    device = next(model.parameters()).device.type
    computes = torch.autocast(device, dtype=half, enabled=_half(model))
    try:
        with ExitStack() as stack:
            stack.enter_context(quiet(model))
            stack.enter_context(computes)
            if not router and before is not None:
                trainer.aux_loss_enabled = False
            if not router:
                stack.enter_context(without_router_loss(model))
            yield
    finally:
        if before is not None:
            trainer.aux_loss_enabled = before
        for mode, values in kept.items():
            trainer._metrics[mode].clear()
            trainer._metrics[mode].update(values)
