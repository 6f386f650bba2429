"""Reports training as events, and reacts to the stop signal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from aligntune.errors import TrainingError
from aligntune.record.events import EventWriter
from aligntune.worker.stop_signal import StopSignal
from aligntune.worker.trainer.best import Best
from aligntune.worker.trainer.checkpointing import CheckpointingWatch
from aligntune.worker.trainer.losses import Losses

TICK_SECONDS = 0.5
"""Steps between logged steps are reported no more often than this."""


REPORTED = (
    "loss",
    "grad_norm",
    "learning_rate",
    "epoch",
    "step",
    "total_flos",
    "num_input_tokens_seen",
)
"""Values of a step that are not in its ``figures``."""


class NothingLeft(Exception):  # noqa: N818 - not an error
    """A run is resumed after its last step; the trainer would train one step more."""


class EventCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Writes steps, evaluations and checkpoints as events; stops on a signal or a loss of NaN.

    Attributes:
        losses: of the whole run; every checkpoint keeps them.
        train_seconds: training time, since the start or the last resume.
        tokens: tokens seen in this time.
        resumed_from: the step that training resumed from, None for a new run.
        sizes: numbers of all and of trainable weights.
        best: the best evaluation of the whole run; every checkpoint keeps it.

    Args:
        rounds: a stop waits for a step that is a multiple of this, so that the run can be resumed.
        recipe: what the run trains with, from the trainer's arguments and its number of steps.
    """

    def __init__(
        self,
        events: EventWriter,
        stop: StopSignal,
        best: Best,
        rounds: int = 1,
        recipe: Callable[[Any, int], dict[str, Any]] | None = None,
    ) -> None:
        self.best = best
        self._recipe = recipe
        self._rounds = rounds
        self._events = events
        self._stop = stop
        self._reported = 0.0
        self._mark = (0.0, 0)
        self._speed: float | None = None
        self.losses = Losses()
        self.train_seconds = 0.0
        self.tokens = 0
        self.resumed_from: int | None = None
        self.sizes: dict[str, int] = {}
        self._watch: CheckpointingWatch | None = None
        self._since = (0.0, 0)

    @property
    def checkpointing(self) -> bool:
        """Whether gradient checkpointing was on in the last step."""
        return self._watch is not None and self._watch.active

    def state(self) -> dict[str, Any]:
        """The state in a checkpoint, in transformers' form."""
        kept = {"losses": self.losses.state(), "best": self.best.state()}
        return {"args": {}, "attributes": kept}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        weights = list(model.parameters())
        self.sizes = {
            "parameters": sum(weight.numel() for weight in weights),
            "trainable": sum(weight.numel() for weight in weights if weight.requires_grad),
        }
        self._watch = CheckpointingWatch(model, bool(args.gradient_checkpointing))
        recipe = {"recipe": self._recipe(args, state.max_steps)} if self._recipe else {}
        self._events(
            "start",
            max_steps=state.max_steps,
            epochs=args.num_train_epochs,
            **self.sizes,
            **recipe,
        )
        self.resumed_from = state.global_step or None
        kept = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.losses.restore(kept["losses"])
        if "best" in kept:  # checkpoints of earlier versions have none
            self.best.restore(kept["best"])
        self._since = self._mark = (time.monotonic(), int(state.num_input_tokens_seen))
        if state.global_step >= state.max_steps:
            raise NothingLeft

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        began, tokens = self._since
        self.train_seconds = time.monotonic() - began
        self.tokens = int(state.num_input_tokens_seen) - tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._watch and (message := self._watch.look(state.global_step)):
            self._events("note", message=message)
        if self._stop.asked and state.global_step % self._rounds == 0:
            control.should_save = True
            control.should_training_stop = True
        if state.global_step >= state.max_steps:
            control.should_log = True  # so that the last reported loss is that of the last step
            if args.load_best_model_at_end:
                control.should_evaluate = True  # because the last step may be the best one
        now = time.monotonic()
        if now - self._reported >= TICK_SECONDS:
            self._measure(state, now)
            self._reported = now
            self._step(state)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        logs = logs or {}
        if "loss" not in logs:
            return
        if not math.isfinite(float(logs["loss"])):
            raise TrainingError(
                f"the loss is {logs['loss']} at step {state.global_step}",
                "Lower training.learning_rate, or check the data for bad rows",
            )
        self._measure(state, time.monotonic())
        self._step(
            state,
            loss=float(logs["loss"]),
            grad_norm=_finite(logs.get("grad_norm")),
            learning_rate=_finite(logs.get("learning_rate")),
            **_figures(logs),
        )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if metrics:
            figures = {name.removeprefix("eval_"): value for name, value in metrics.items()}
            self._events("evaluate", step=state.global_step, **figures)
            if self.best.see(state.global_step, figures) and args.load_best_model_at_end:
                control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        path = f"{Path(args.output_dir).name}/checkpoint-{state.global_step}"
        self._events("save", step=state.global_step, path=path)

    def _measure(self, state: Any, now: float) -> None:
        """Tokens per second since the last measurement, over at least a few tenths of a second."""
        then, tokens = self._mark
        seen = int(state.num_input_tokens_seen)
        if now - then >= TICK_SECONDS / 2 and seen > tokens:
            self._speed = (seen - tokens) / (now - then)
            self._mark = (now, seen)

    def _step(self, state: Any, **values: Any) -> None:
        self._events(
            "step",
            step=state.global_step,
            max_steps=state.max_steps,
            epoch=round(float(state.epoch or 0), 4),
            tokens=int(state.num_input_tokens_seen),
            tokens_per_second=None if self._speed is None else round(self._speed, 1),
            **values,
        )


def _figures(logs: dict[str, Any]) -> dict[str, Any]:
    """What a trainer logs besides the loss, such as rewards, margins and KL."""
    figures = {
        name: round(float(value), 6)
        for name, value in logs.items()
        if name not in REPORTED and isinstance(value, int | float) and math.isfinite(value)
    }
    return {"figures": figures} if figures else {}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None
