"""Losses of a whole run, however often it was stopped and gone on with.

transformers sums losses in memory only: a resumed run's mean is that of its last leg, and the first
loss it logs lacks the steps before the checkpoint. These sums go into the checkpoint.
"""

from __future__ import annotations

from typing import Any


class Losses:
    """Sums of the steps' losses, since training began and since one was last logged.

    They are summed in double precision and in the order of the steps, and JSON keeps every digit,
    so that a resumed run tells the very figures of one that was never stopped.
    """

    def __init__(self) -> None:
        self._told = 0.0
        self._told_step = 0
        self._since: Any = 0.0  # a tensor while training, as to read it is to wait for the GPU

    def add(self, loss: Any) -> None:
        """Add the loss of a step, or of its part where gradients are accumulated."""
        self._since = self._since + loss

    def log(self, step: int) -> float:
        """The mean over the steps since the last one logged, up to and including ``step``."""
        since = float(self._since)
        mean = since / max(step - self._told_step, 1)
        self._told, self._told_step, self._since = self._told + since, step, 0.0
        return mean

    def mean(self, step: int) -> float:
        """The mean over all steps up to and including ``step``."""
        return (self._told + float(self._since)) / max(step, 1)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps, see :meth:`restore`."""
        return {"told": self._told, "told_step": self._told_step, "since": float(self._since)}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        self._told, self._since = state["told"], state["since"]
        self._told_step = int(state["told_step"])


def summed_losses(trainer: type[Any], losses: Losses) -> type[Any]:
    """``trainer`` that adds every step's loss to ``losses`` and logs the means that these give."""

    class SummedLosses(trainer):  # type: ignore[misc]
        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            losses.add(loss.detach().double())
            return loss

        def log(self, logs: dict[str, Any], *arguments: Any, **named: Any) -> None:
            if "loss" in logs:
                logs["loss"] = losses.log(self.state.global_step)
            super().log(logs, *arguments, **named)

    SummedLosses.__name__ = trainer.__name__
    return SummedLosses
