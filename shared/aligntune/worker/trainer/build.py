"""The trainer that a run uses: the stack's own, with the mixins that it needs."""

from __future__ import annotations

from typing import Any

from aligntune.worker.metrics import Measure
from aligntune.worker.text.encoding import Encoding
from aligntune.worker.trainer.losses import Losses, SummedLosses
from aligntune.worker.trainer.measured import Measured
from aligntune.worker.trainer.prepared_rows import OwnPrompts, PreparedRows
from aligntune.worker.trainer.sampling import SeededOrder
from aligntune.worker.trainer.token_count import CountedTokens


def trainer_class(
    stack_trainer: type[Any],
    *,
    rows_are_prepared: bool,
    losses: Losses,
    measure: Measure,
    encode_prompt: Encoding,
) -> type[Any]:
    """A subclass of ``stack_trainer`` with what every run adds to it.

    It keeps the name of ``stack_trainer``, which libraries look at and the log shows.

    Args:
        stack_trainer: the trainer of TRL, Unsloth or PPO, as the backend has left it.
        rows_are_prepared: whether the trainer must leave the rows as they are.
        losses: receives the loss of every step.
        measure: evaluates a model.
        encode_prompt: the tokens of a row's prompt, for trainers that sample from prompts.
    """
    mixins: tuple[type[Any], ...] = (SummedLosses, Measured, CountedTokens, SeededOrder)
    if rows_are_prepared:
        mixins += (PreparedRows,)
    if hasattr(stack_trainer, "_tokenize_prompts"):
        mixins += (OwnPrompts,)
    values = {
        "losses": losses,
        "measure_rows": staticmethod(measure),
        "encode_prompt": staticmethod(encode_prompt),
    }
    return type(stack_trainer.__name__, (*mixins, stack_trainer), values)
