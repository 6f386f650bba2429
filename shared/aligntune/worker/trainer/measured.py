"""Trainers that evaluate with the family's own measure, during training and at the end."""

from __future__ import annotations

from typing import Any

from aligntune.errors import DataError
from aligntune.worker.metrics import Measure, Measurement, Metrics


class Measured:
    """Mixin: replaces ``evaluate``.

    Attributes:
        measure_rows: evaluates a model on rows.
    """

    measure_rows: Measure
    args: Any
    control: Any
    eval_dataset: Any
    model: Any
    state: Any
    callback_handler: Any
    log: Any

    def measure(self, model: Any, rows: Any) -> Measurement:
        """Evaluate ``model``, compared with the trainer's reference model if it has one."""
        return self.measure_rows(model, rows, getattr(self, "ref_model", None))

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Metrics:
        """See :class:`transformers.Trainer`.

        Raises:
            DataError: the metric that chooses the best checkpoint has no value on these rows.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        measurement = self.measure(self.model, rows)
        best = self.args.metric_for_best_model
        if self.args.load_best_model_at_end and measurement.metrics.get(best, 0) is None:
            raise DataError(
                f"the best checkpoint is chosen by {best}, which has no value on the evaluation "
                "rows",
                "Remove training.keep_best, or use other evaluation rows",
            )
        metrics = {
            f"{metric_key_prefix}_{name}": value for name, value in measurement.metrics.items()
        }
        self.log({name: value for name, value in metrics.items() if value is not None})
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics
