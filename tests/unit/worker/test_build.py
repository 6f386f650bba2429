"""The trainer of a run: the stack's own trainer with our mixins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aligntune.errors import DataError
from aligntune.worker.metrics import Measurement
from aligntune.worker.trainer.build import trainer_class
from aligntune.worker.trainer.losses import Losses


class StackTrainer:
    """As much of a trainer as the mixins use."""

    def __init__(self, **args: Any) -> None:
        self.args = SimpleNamespace(
            metric_for_best_model="margin", load_best_model_at_end=False, data_seed=None, seed=1
        )
        self.args.__dict__.update(args)
        self.state = SimpleNamespace(global_step=1)
        self.control = "control"
        self.model, self.ref_model, self.eval_dataset = "model", "reference", ["row"]
        self.callback_handler = SimpleNamespace(
            on_evaluate=lambda args, state, control, metrics: f"{control} after {metrics}"
        )
        self.logged: list[dict[str, Any]] = []

    def log(self, logs: dict[str, Any]) -> None:
        self.logged.append(logs)

    def evaluate(self) -> None:
        raise AssertionError("the stack's own evaluation")

    def _prepare_dataset(self, dataset: Any, name: str) -> Any:
        return [f"{row} prepared by the stack" for row in dataset]

    def _get_train_sampler(self) -> Any:
        return "plain sampler"


def build(metrics: dict[str, Any], prepared: bool = True, **args: Any) -> Any:
    def measure(model: Any, rows: Any, reference: Any) -> Measurement:
        assert (model, rows, reference) == ("model", ["row"], "reference")
        return Measurement(metrics)

    made = trainer_class(
        args.pop("stack", StackTrainer),
        rows_are_prepared=prepared,
        losses=Losses(),
        measure=measure,
        encode_prompt=lambda row: [len(row["prompt"]), row.get("tools", 0)],
    )
    return made(**args)


def test_the_trainer_keeps_the_name_of_the_stack_s() -> None:
    trainer = build({})
    assert type(trainer).__name__ == "StackTrainer"
    assert isinstance(trainer, StackTrainer)


def test_it_evaluates_with_our_measure_and_logs_only_figures_that_have_a_value() -> None:
    trainer = build({"margin": None, "rows": 2})
    assert trainer.evaluate() == {"eval_margin": None, "eval_rows": 2}
    assert trainer.logged == [{"eval_rows": 2}]
    assert trainer.control == "control after {'eval_margin': None, 'eval_rows': 2}"


def test_the_best_checkpoint_needs_a_figure_to_be_chosen_by() -> None:
    with pytest.raises(DataError, match="chosen by margin, which has no value"):
        build({"margin": None}, load_best_model_at_end=True).evaluate()


@pytest.mark.parametrize("prepared", [True, False])
def test_rows_that_are_prepared_are_left_alone(prepared: bool) -> None:
    rows = build({}, prepared)._prepare_dataset(["row"], "train")
    assert rows == (["row"] if prepared else ["row prepared by the stack"])


def test_the_order_of_a_sampler_that_accelerate_seeds_is_left_alone() -> None:
    assert build({})._get_train_sampler() == "plain sampler"


class SamplingTrainer(StackTrainer):
    """A trainer that samples completions, as TRL's GRPO does."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        return self._tokenize_prompts([row["prompt"] for row in inputs])

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        raise AssertionError("the stack's own prompts")


def test_a_trainer_that_samples_encodes_prompts_with_the_other_columns_of_their_rows() -> None:
    trainer = build({}, stack=SamplingTrainer)
    rows = [{"prompt": "abc", "tools": 1}, {"prompt": "abc", "tools": 1}, {"prompt": "a"}]
    assert trainer._generate_and_score_completions(rows) == ([[3, 1], [3, 1], [1, 0]], None, {})
    assert not hasattr(build({}), "_tokenize_prompts")
