"""Losses of a whole run, however often it was stopped and resumed.

transformers sums losses in memory only: the mean of a resumed run covers its last part only, and
the first loss that it logs lacks the steps before the checkpoint. These sums are part of the
checkpoint.
"""

from __future__ import annotations

from typing import Any


class Losses:
    """Sums of the steps' losses, since training began and since the last log.

    The sums are in double precision and in the order of the steps, and JSON keeps every digit. So a
    resumed run reports exactly the same losses as an uninterrupted one.
    """

    def __init__(self) -> None:
        self._logged = 0.0
        self._logged_step = 0
        self._since: Any = 0.0  # a tensor while training, because reading it waits for the GPU

    def add(self, loss: Any) -> None:
        """Add the loss of a step, or of its part if gradients are accumulated."""
        self._since = self._since + loss

    def log(self, step: int) -> float:
        """The mean over the steps since the last log, up to and including ``step``."""
        since = float(self._since)
        mean = since / max(step - self._logged_step, 1)
        self._logged, self._logged_step, self._since = self._logged + since, step, 0.0
        return mean

    def mean(self, step: int) -> float:
        """The mean over all steps up to and including ``step``."""
        return (self._logged + float(self._since)) / max(step, 1)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps, see :meth:`restore`."""
        # The names are those of checkpoints that exist.
        return {"told": self._logged, "told_step": self._logged_step, "since": float(self._since)}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint."""
        self._logged, self._since = state["told"], state["since"]
        self._logged_step = int(state["told_step"])


class SummedLosses:
    """Mixin: adds the loss of every step to ``losses`` and logs the means of that.

    Attributes:
        losses: of the whole run.
    """

    losses: Losses
    state: Any

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        loss = super().training_step(*arguments, **named)  # type: ignore[misc]
        self.losses.add(loss.detach().double())
        return loss

    def log(self, logs: dict[str, Any], *arguments: Any, **named: Any) -> None:
        if "loss" in logs:
            logs["loss"] = self.losses.log(self.state.global_step)
        super().log(logs, *arguments, **named)  # type: ignore[misc]
