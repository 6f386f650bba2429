"""The results of a trainer's methods. Every result names the folder with its record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from aligntune.record.schema import RunRecord


@dataclass(frozen=True)
class Planned:
    """The plan of a training.

    Attributes:
        backend: ``trl`` or ``unsloth``.
        reason: the choice and the rule that decided it, in one line.
        warnings: important messages, such as a requested backend that is unavailable.
        verdicts: the result of every rule for every backend.
        run_dir: the run directory.
        spec: every value of the request.
        commands: the commands of each phase.
    """

    backend: str
    reason: str
    warnings: tuple[str, ...]
    verdicts: tuple[dict[str, Any], ...] = field(repr=False)
    run_dir: Path
    spec: dict[str, Any] = field(repr=False)
    commands: tuple[dict[str, Any], ...] = field(repr=False)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Planned:
        choice = values["plan"]["choice"]
        return cls(
            backend=choice["backend"],
            reason=choice["reason"],
            warnings=tuple(choice["warnings"]),
            verdicts=tuple(choice["verdicts"]),
            run_dir=Path(values["plan"]["run_dir"]),
            spec=values["spec"],
            commands=tuple(values["commands"]),
        )


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run_dir: the run directory.
        model_dir: its model: full weights or an adapter, tokenizer and card.
        backend: the backend that trained.
        steps: optimizer steps.
        train_loss: mean loss over the steps, None if the algorithm reports none.
        final_loss: the last logged loss.
        metrics: the evaluation at the end; empty if there were no evaluation rows.
        record: everything else: spec, plan, image, versions, times (``run.json``).
    """

    run_dir: Path
    model_dir: Path
    backend: str
    steps: int
    train_loss: float | None
    final_loss: float | None
    metrics: dict[str, float | int | None]
    record: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, run: Path, record: RunRecord) -> TrainResult:
        result = record.result
        return cls(
            run_dir=run,
            model_dir=run / "model",
            backend=result["backend"],
            steps=result["steps"],
            train_loss=result.get("train_loss"),
            final_loss=result.get("final_loss"),
            metrics={
                name.removeprefix("eval_"): value
                for name, value in result.items()
                if name.startswith("eval_")
            },
            record=record.to_dict(),
        )


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A task's result; ``run_dir`` is the task's folder, ``record`` its ``run.json``."""

    run_dir: Path
    record: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, record: RunRecord) -> Self:
        folder = Path(record.run_dir or "")
        return cls(**cls._values(record.result), run_dir=folder, record=record.to_dict())

    @classmethod
    def _values(cls, result: dict[str, Any]) -> dict[str, Any]:
        """The fields of this class alone, from a record's result."""
        own = {item.name for item in fields(cls)} - {item.name for item in fields(TaskResult)}
        return {name: result[name] for name in own}


@dataclass(frozen=True)
class Evaluation(TaskResult):
    """An evaluation of a run's model.

    Attributes:
        metrics: ``loss`` (mean over tokens, nats) and ``perplexity``; ``accuracy`` and ``margin``;
            ``reward`` and ``kl``: what the run's algorithm is judged by.
        samples: a few rows with the model's output.
        rows: number of rows.
        source: where the rows come from.
    """

    metrics: dict[str, float | int | None]
    samples: tuple[dict[str, Any], ...] = field(repr=False)
    rows: int
    source: str

    @classmethod
    def _values(cls, result: dict[str, Any]) -> dict[str, Any]:
        return {**super()._values(result), "samples": tuple(result["samples"])}

    @property
    def loss(self) -> float | None:
        return self.metrics.get("loss")

    @property
    def perplexity(self) -> float | None:
        return self.metrics.get("perplexity")

    @property
    def accuracy(self) -> float | None:
        return self.metrics.get("accuracy")

    @property
    def reward(self) -> float | None:
        return self.metrics.get("reward")


@dataclass(frozen=True)
class Prediction:
    """A model's result for one prompt.

    Attributes:
        prompt: as it was given.
        chat: whether it was put through the model's chat template.
        text: the completion; None of a reward model.
        score: a reward model's score; None for other models.
        tokens: tokens of the completion.
        ended: whether the completion ended before ``max_new_tokens``.
    """

    prompt: str | list[dict[str, Any]]
    chat: bool
    text: str | None = None
    score: float | None = None
    tokens: int | None = None
    ended: bool | None = None


@dataclass(frozen=True)
class Predictions(TaskResult):
    """One :class:`Prediction` per prompt, in order."""

    predictions: tuple[Prediction, ...]

    @classmethod
    def _values(cls, result: dict[str, Any]) -> dict[str, Any]:
        return {"predictions": tuple(Prediction(**values) for values in result["predictions"])}

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)

    def __getitem__(self, index: int) -> Prediction:
        return self.predictions[index]

    @property
    def texts(self) -> list[str | None]:
        """The completions."""
        return [prediction.text for prediction in self.predictions]

    @property
    def scores(self) -> list[float | None]:
        """A reward model's scores."""
        return [prediction.score for prediction in self.predictions]


@dataclass(frozen=True)
class Saved:
    """A copy of a run's model: its folder and the names of its files."""

    path: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class Pushed(TaskResult):
    """A model on a hub: its ``repository``, address and commit."""

    repository: str
    url: str
    commit: str
