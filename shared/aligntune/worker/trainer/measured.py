"""Trainers that evaluate as we measure."""

from __future__ import annotations

from typing import Any

from aligntune.errors import DataError
from aligntune.worker.metrics import Measure, Metrics


def measured(trainer: type[Any], measure: Measure) -> type[Any]:
    """``trainer`` with an ``evaluate`` that measures as we do, while training as at the end."""

    class Measured(trainer):  # type: ignore[misc]
        def evaluate(
            self,
            eval_dataset: Any = None,
            ignore_keys: list[str] | None = None,
            metric_key_prefix: str = "eval",
        ) -> Metrics:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            found = measure(self.model, rows)
            best = self.args.metric_for_best_model
            if self.args.load_best_model_at_end and found.metrics.get(best, 0) is None:
                raise DataError(
                    f"the evaluation rows tell no {best}, by which the best checkpoint is chosen",
                    "Leave out trainer_args.load_best_model_at_end, or use other rows",
                )
            metrics = {f"{metric_key_prefix}_{name}": it for name, it in found.metrics.items()}
            self.log({name: value for name, value in metrics.items() if value is not None})
            self.control: Any = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

    Measured.__name__ = trainer.__name__
    return Measured
