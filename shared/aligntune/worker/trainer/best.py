"""The best evaluation of a run so far, however often it was stopped and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.record.events import EventWriter


@dataclass
class Best:
    """The best value of one figure.

    Attributes:
        figure: its name in an evaluation, such as ``loss``.
        higher: whether higher is better.
        value: None before the first evaluation.
        step: the optimizer step it was measured at.
    """

    figure: str
    higher: bool
    value: float | None = None
    step: int | None = None

    @classmethod
    def named(cls, family: tuple[str, bool], arguments: Mapping[str, Any]) -> Best:
        """The figure of an algorithm's family, unless the user's trainer arguments name another."""
        figure, higher = family
        given = str(arguments.get("metric_for_best_model") or figure).removeprefix("eval_")
        return cls(given, bool(arguments.get("greater_is_better", higher)))

    def beats(self, value: float) -> bool:
        """Whether the best value is better than ``value``."""
        return self.value is not None and (
            self.value > value if self.higher else self.value < value
        )

    def see(self, step: int, figures: Mapping[str, Any]) -> bool:
        """Take an evaluation into account; returns whether it is the best so far."""
        value = figures.get(self.figure)
        if value is None or self.value == value or self.beats(value):
            return False
        self.value, self.step = float(value), step
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, see :meth:`restore`."""
        return {"value": self.value, "step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.value, self.step = state["value"], state["step"]

    def end(self, held: int, figures: Mapping[str, Any], events: EventWriter, keep: bool) -> None:
        """Take the evaluation of the result into account, and say so if it is not the best.

        Args:
            held: the step whose weights are the result.
            keep: whether the best checkpoint should be the result.
        """
        self.see(held, figures)
        if self.step is None or self.step == held:
            return
        was = f"the best evaluation was at step {self.step} ({self.figure} {self.value:.4f})"
        if keep:
            events("warning", message=f"{was}, but its checkpoint is gone; step {held} is saved")
        else:
            events("note", message=f"{was}; training.keep_best=true would have kept it")

    def result(self, held: int) -> dict[str, Any]:
        """For the record: the best evaluation, and whether the model of step ``held`` is that.

        Value and step are None if the figure has no value on the evaluation rows.
        """
        return {
            "figure": self.figure,
            "value": self.value,
            "step": self.step,
            "kept": self.step in (held, None),
        }


def held_step(trainer: Any) -> int:
    """The step whose weights the model has at the end of training: the last step, or the best."""
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    return int(Path(best).name.rpartition("-")[2]) if best else int(trainer.state.global_step)
