"""One trainer for every algorithm and backend: a request, and work on its result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from aligntune.api.discover import find_runner
from aligntune.api.results import Evaluation, Planned, Predictions, Pushed, Saved, TrainResult
from aligntune.api.runner import Runner
from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir, finished_model
from aligntune.spec.layers import from_file
from aligntune.spec.resolve import Settings, resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Evaluate, Predict, Prompt, Push, make

AnyPath = str | os.PathLike[str]


class Trainer:
    """Trains a request with the chosen backend, then works on the result.

    Create it with :func:`~aligntune.core.backend_factory.create_sft_trainer` and
    :func:`~aligntune.core.backend_factory.create_rl_trainer`, or from an existing run with
    :meth:`from_run`. No state lives in a container: each method starts what it needs and writes to
    the run directory. Every method raises a subclass of
    :class:`~aligntune.errors.AligntuneError`, which says what happened and what to do.

    Args:
        settings: the request, with the origin of each value.
        runner: runs the request.
        run: an existing run directory.
    """

    def __init__(
        self, settings: Settings, runner: Runner | None = None, run: Path | None = None
    ) -> None:
        self._settings = settings
        self._runner = runner or find_runner()
        self._run = run

    @classmethod
    def from_run(cls, path: AnyPath, runner: Runner | None = None) -> Trainer:
        """The trainer of an existing run, of this or another process or of the command line.
        :meth:`train` resumes an unfinished run.

        Raises:
            OutputError: ``path`` is not a run directory.
        """
        run = RunDir(Path(path).expanduser().absolute())
        if run.record().is_empty or not run.spec.exists():
            raise OutputError(f"{path} is not a run directory", "Name the folder of a run")
        return cls(resolve([from_file(run.spec)]), runner, run.path)

    @property
    def spec(self) -> RunSpec:
        """Every value of the request."""
        return self._settings.spec

    @property
    def run_dir(self) -> Path | None:
        """The newest run of this trainer, finished or not; None before :meth:`train`."""
        return self._run

    def __repr__(self) -> str:
        run = f", run_dir={str(self._run)!r}" if self._run else ""
        return f"<Trainer of {self.spec.algorithm} for {self.spec.model.name!r}{run}>"

    def plan(self) -> Planned:
        """What :meth:`train` would do, and why. Changes, downloads and writes nothing."""
        return Planned.of(self._runner.plan(self._settings))

    def train(self) -> TrainResult:
        """Train to the end, in a new run directory for each call.

        Ctrl-C writes a checkpoint and stops; ``Trainer.from_run(...).train()`` resumes.
        """
        if self._run is not None and not RunDir(self._run).record().is_finished:
            record = self._runner.resume(self._run)
        else:
            record = self._runner.train(self._settings)
            self._run = Path(record.run_dir or "")
        return TrainResult.of(self._run, record)

    def evaluate(
        self,
        dataset: AnyPath | None = None,
        *,
        split: str | None = None,
        max_samples: int | None = None,
        batch_size: int | None = None,
    ) -> Evaluation:
        """Measure the model on held-out rows.

        Args:
            dataset: file, folder or hub id; None is the run's evaluation rows, which give the same
                figures as at the end of training.
            split: split of it.
            max_samples: number of rows, from the first.
            batch_size: rows per forward pass; None is as in training.
        """
        named = None if dataset is None else os.fspath(dataset)
        of, more = str(self._finished()), {"max_samples": max_samples, "batch_size": batch_size}
        task = make(Evaluate, of=of, dataset=named, split=split, **more)
        return Evaluation.of(self._runner.do(task))

    def predict(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        chat: bool | None = None,
        batch_size: int | None = None,
    ) -> Predictions:
        """Complete prompts, or score texts if the run has trained a reward model.

        Args:
            prompts: a text, a conversation (a list of messages), or several of either.
            max_new_tokens: completions are cut at this many tokens; None is 256.
            temperature: sampling temperature; None always takes the most likely token.
            seed: random seed of sampling.
            chat: whether a text is a user's message in a conversation; None does what the training
                data did, and each prediction reports it.
            batch_size: prompts per forward pass.
        """
        single = isinstance(prompts, str) or (
            len(prompts) > 0 and all(isinstance(message, dict) for message in prompts)
        )
        task = make(
            Predict,
            of=str(self._finished()),
            prompts=[prompts] if single else list(prompts),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            chat=chat,
            batch_size=batch_size,
        )
        return Predictions.of(self._runner.do(task))

    def save_model(self, path: AnyPath) -> Saved:
        """Copy the model (weights or adapter, tokenizer, card) into a new or an empty folder.

        Raises:
            OutputError: the folder is not empty, or cannot be written.
        """
        model = self._finished() / "model"
        target = Path(path).expanduser().absolute()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(f"{path} is not an empty folder", "Use a new folder")
        beside = target.with_name(f"{target.name}.part")
        try:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(model, beside)
            os.replace(beside, target)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise OutputError(f"cannot write {path}: {error}", "Use another folder") from error
        return Saved(target, tuple(sorted(file.name for file in target.iterdir())))

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, commit_message: str | None = None
    ) -> Pushed:
        """Upload the model to a repository of a hub, which is created if needed.

        The token is the one that you are logged in with (``hf auth login`` or ``HF_TOKEN``).
        """
        task = make(
            Push,
            of=str(self._finished()),
            repository=repo_id,
            private=private,
            message=commit_message,
        )
        return Pushed.of(self._runner.do(task))

    def _finished(self) -> Path:
        if self._run is None:
            raise OutputError(
                "no model has been trained yet", "Call train(), or use Trainer.from_run()"
            )
        if finished_model(self._run) is None:
            raise OutputError(f"the run {self._run} has no model yet", "Call train() to resume it")
        return self._run
