"""One training run in five stages: prepare, load, fit, save, measure.

Each stage takes the data of the stages before it and returns its own. Every phase is reported as an
event and timed. Torch and the trainers are imported inside functions, because the backend has to be
prepared before them.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from typing import Any

from aligntune.data.rows import Rows
from aligntune.errors import SpecError, StoppedError
from aligntune.failures import first_line
from aligntune.packages import require_packages
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.record.unchanged import require_same_inputs
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.trainer_args import longest_row, refuse_owned, rounds, save_steps
from aligntune.worker.backend import Backend, installed
from aligntune.worker.device import Device, find_device
from aligntune.worker.families import Family, Setup, family, trainer_classes
from aligntune.worker.inputs.fetch import fetch_missing
from aligntune.worker.inputs.fingerprints import of_files, of_part
from aligntune.worker.inputs.model import (
    load_config,
    load_model,
    load_tokenizer,
    locate_model,
    require_matching,
    row_length,
    tokenizer_folder,
)
from aligntune.worker.inputs.rewards import load_rewards
from aligntune.worker.inputs.rows import load_rows
from aligntune.worker.metrics import Measurement
from aligntune.worker.model_card import model_card
from aligntune.worker.modeling.model import plain
from aligntune.worker.modeling.text_part import text_class, text_part_notes, trained_config
from aligntune.worker.process_memory import most_resident, resident
from aligntune.worker.recipe import recorder, sequences
from aligntune.worker.result import Clock, machine, record_code, stack_versions
from aligntune.worker.saving.folder import save_model, try_saving
from aligntune.worker.saving.given import Given, make_savable
from aligntune.worker.stop_signal import StopSignal
from aligntune.worker.text.encoding import Encoder
from aligntune.worker.text.tokenize import Tokenized
from aligntune.worker.trainer.arguments import accepted_arguments, trainer_arguments
from aligntune.worker.trainer.best import Best, held_step
from aligntune.worker.trainer.build import trainer_class
from aligntune.worker.trainer.resume import claim, newest_checkpoint, starting_point


@dataclass(frozen=True)
class Session:
    """What every stage uses: the request, its run directory, and the means to report and stop."""

    spec: RunSpec
    run: RunDir
    events: EventWriter
    clock: Clock
    stop: StopSignal

    def note(self, message: str) -> None:
        self.events("note", message=message)


@dataclass(frozen=True)
class Stack:
    """What the run trains with.

    Attributes:
        kind: the module of the algorithm's family.
        memory: bytes that the process holds once all libraries are imported.
    """

    backend: Backend
    kind: Family
    device: Device
    memory: int


@dataclass(frozen=True)
class Inputs:
    """What the run trains on.

    Attributes:
        setup: what the family's functions need.
        given: the model's settings, as loaded.
        encoded: rows as the trainer takes them, by part: ``train`` and maybe ``evaluation``.
        learns: which tokens are learned, in words.
        text_class: the model's class, if it is the text part of a checkpoint with other parts.
    """

    model: Any
    given: Given
    setup: Setup
    encoded: dict[str, Any]
    learns: str
    text_class: str | None


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes:
        model: the trained model, without accelerate's wrapper, which copies outputs to float32.
        callback: what watched the training.
    """

    trainer: Any
    model: Any
    callback: Any

    @property
    def figures(self) -> dict[str, Any]:
        state = self.trainer.state
        return {
            "steps": state.global_step,
            "epochs": round(float(state.epoch or 0), 4),
            "train_loss": self.callback.losses.mean(state.global_step),
            "final_loss": _last(state.log_history, "loss"),
            "tokens": int(state.num_input_tokens_seen),
            "resumed_from": self.callback.resumed_from,
            **self.callback.sizes,
        }


def train(spec: RunSpec, run: RunDir, events: EventWriter) -> None:
    """Train what ``spec`` describes and leave the result in ``run``.

    Raises:
        AligntuneError: anything expected, by class.
    """
    session = Session(spec, run, events, stop=StopSignal(), clock=Clock(events))
    claim(run, spec, session.note)
    record_code(run, events)
    refuse_owned(spec)

    stack = prepare(session)
    inputs = load(session, stack)
    trained = fit(session, stack, inputs)
    save(session, inputs, trained)  # before the evaluation, so that its failure loses no weights
    measured = measure(session, stack, inputs, trained)
    _finish(session, stack, inputs, trained, measured)


def prepare(session: Session) -> Stack:
    """Check that this image can run the request, import its libraries and find the device."""
    spec = session.spec
    with session.clock.phase("import"):
        backend = installed()
        if backend.NAME not in spec.row.backends:
            raise SpecError(f"{spec.row.title} does not run on {backend.NAME}", "Use --backend trl")
        require_packages(spec, backend.NAME)
        backend.prepare()
        import datasets
        import transformers

        # Everything that training needs is imported in this phase.
        import aligntune.worker.modeling.loss_head
        import aligntune.worker.trainer.callback  # noqa: F401

        trainer_classes(spec.row)
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.set_seed(spec.training.seed)
        device = find_device(spec, session.run)
        memory = resident()
        session.note(f"computing in {device.precision} on the {device.name}")
    return Stack(backend, family(spec.row), device, memory)


def load(session: Session, stack: Stack) -> Inputs:
    """Fetch what is missing, then load the model and encode the rows."""
    spec, run, events = session.spec, session.run, session.events
    backend, kind, device = stack.backend, stack.kind, stack.device
    fetch_missing(spec, run, events)
    with session.clock.phase("load_model"):
        path = locate_model(spec, run)
        of_tokenizer = tokenizer_folder(spec, run, path)
        if of_tokenizer != path:
            session.note(f"using the tokenizer that was saved with {spec.adapter.path}")
        tokenizer = load_tokenizer(spec, of_tokenizer)
        config = load_config(spec, path)
        require_same_inputs(run.record().inputs, of_files(spec, run, path))
        max_length = row_length(spec, config)
        if max_length != longest_row(spec):
            session.note(f"the model takes {max_length} tokens at most")
        model = load_model(spec, path, config, max_length, backend, device, run, spec.row.head)
        require_matching(tokenizer, model, spec)
        given = Given.of(spec, path, trained_config(config), tokenizer)
        make_savable(plain(model))

    with session.clock.phase("load_data"):
        from aligntune.worker.modeling.loss_head import LossHead
        from aligntune.worker.text.stops import settle_run_ends

        train_rows, eval_rows = load_rows(spec, run, tokenizer)
        parts = {"train": train_rows} | ({"evaluation": eval_rows} if eval_rows else {})
        rewards = load_rewards(spec, run, events, device, *parts.values())
        head = LossHead(device, backend.computes_loss())
        ends, noted = settle_run_ends(spec, model, tokenizer, train_rows.dataset)
        for note in (*text_part_notes(config, model), *noted):
            session.note(note)
        setup = Setup(spec, tokenizer, max_length, rewards, backend.inference, head, ends)
        inputs = of_files(spec, run, path) | {part: of_part(rows) for part, rows in parts.items()}
        require_same_inputs(run.record().inputs, inputs)
        run.update(inputs=inputs)
        made = {part: _encode(session, kind, setup, part, rows) for part, rows in parts.items()}
        encoded = {part: rows.dataset for part, rows in made.items()}
    learns = made["train"].learns or spec.row.learns
    return Inputs(model, given, setup, encoded, learns, text_class(config, model))


def _encode(session: Session, kind: Family, setup: Setup, part: str, rows: Rows) -> Tokenized:
    session.events(
        "data", part=part, rows=len(rows.dataset), format=rows.format, source=rows.source
    )
    encoded: Tokenized = kind.encode(rows.dataset, setup, part == "train")
    for note in (*rows.notes, *encoded.notes):
        session.note(f"{part}: {note}")
    return encoded


def fit(session: Session, stack: Stack, inputs: Inputs) -> Trained:
    """Build the trainer and train, from the newest checkpoint if there is one.

    Raises:
        SpecError: the trainer rejects its arguments.
        StoppedError: a stop was asked for before the last step.
        TrainingError: the trainer failed.
    """
    from aligntune.worker.process_memory import trim_after_forward
    from aligntune.worker.trainer.callback import EventCallback
    from aligntune.worker.trainer.run import run_trainer

    spec, run, stop = session.spec, session.run, session.stop
    with session.clock.phase("train"):
        data = (inputs.encoded, inputs.learns)
        recipe = recorder(inputs.setup, run, stack.device, stack.backend.NAME, *data)
        best = Best.named(stack.kind.BEST, spec.trainer_args)
        callback = EventCallback(session.events, stop, best, rounds(spec), recipe)
        trainer = _build_trainer(session, stack, inputs, callback)
        _try_out(session, inputs, trainer)
        if not stack.device.cuda:
            trim_after_forward(trainer.model)
        stop.begun = True
        checkpoint = newest_checkpoint(run)
        if start := starting_point(run, checkpoint):
            session.note(start)
        run_trainer(trainer, checkpoint)
        state = trainer.state
        if stop.asked and state.global_step < state.max_steps:
            raise StoppedError(
                f"stopped at step {state.global_step} of {state.max_steps}; a checkpoint was saved",
                f"Resume with: aligntune-run --resume {run.record().run_dir or run.path}",
            )
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return Trained(trainer, model, callback)


def _build_trainer(session: Session, stack: Stack, inputs: Inputs, callback: Any) -> Any:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    spec, kind, setup, encoded = session.spec, stack.kind, inputs.setup, inputs.encoded
    stack_trainer, config = trainer_classes(spec.row)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(session.run.path / "tensorboard")
    arguments = trainer_arguments(
        spec,
        kind,
        stack.device,
        session.run.checkpoints,
        "evaluation" in encoded,
        setup.max_length,
        sequences(spec, encoded["train"]),
    )
    accepted = accepted_arguments(arguments, config, spec, stack.backend)
    if (every := save_steps(spec)) != spec.training.save_steps:
        session.note(f"checkpoints are written every {every} steps, see save_steps")
    our_trainer = trainer_class(
        stack_trainer,
        rows_are_prepared=kind.PREPARED,
        losses=callback.losses,
        measure=_measure_function(stack, setup),
        encode_prompt=Encoder.of(setup.tokenizer, spec).prompt,
    )
    try:
        trainer = our_trainer(
            model=inputs.model,
            args=config(**accepted),
            train_dataset=encoded["train"],
            eval_dataset=encoded.get("evaluation"),
            processing_class=setup.tokenizer,
            callbacks=[callback],
            **kind.extras(setup),
        )
    except (ValueError, TypeError, ImportError) as error:
        traceback.print_exc()
        raise SpecError(
            f"{config.__name__} rejects these arguments: {first_line(error)}",
            "Change the key that it names",
        ) from error
    trainer.remove_callback(PrinterCallback)  # events report progress already
    trainer.remove_callback(ProgressCallback)
    return trainer


def _try_out(session: Session, inputs: Inputs, trainer: Any) -> None:
    """Try before the first step what would otherwise fail, or be wrong, at the end."""
    from aligntune.worker.trials.losses import require_right_head, try_losses

    try_saving(trainer, inputs.setup.tokenizer, inputs.given, session.run)
    rows = inputs.encoded["train"]
    if "labels" in rows.column_names:
        for note in try_losses(trainer, rows, session.spec):
            session.note(note)
    else:
        require_right_head(trainer, inputs.setup.head, session.spec)


def _measure_function(stack: Stack, setup: Setup) -> Any:
    """The family's evaluation; on a CPU it first gives unused memory back to the system."""
    from aligntune.worker.process_memory import trim

    def measure_rows(model: Any, rows: Any, reference: Any | None) -> Measurement:
        if not stack.device.cuda:
            trim()
        return stack.kind.measure(model, rows, setup, reference)

    return measure_rows


def save(session: Session, inputs: Inputs, trained: Trained) -> None:
    """Write the model and its tokenizer to ``model/``."""
    with session.clock.phase("save"):
        save_model(trained.trainer, inputs.setup.tokenizer, inputs.given, session.run)


def measure(session: Session, stack: Stack, inputs: Inputs, trained: Trained) -> dict[str, Any]:
    """The figures of the trained model on the evaluation rows; empty if there are none."""
    if "evaluation" not in inputs.encoded:
        return {}
    trainer, model, best = trained.trainer, trained.model, trained.callback.best
    held = held_step(trainer)
    with session.clock.phase("evaluate"):
        # The trainer may have added columns to its rows, such as the reference's log-probabilities.
        own = trainer.eval_dataset if stack.kind.PREPARED else inputs.encoded["evaluation"]
        measurement = trainer.measure(model, own)
        session.events("evaluate", step=held, **measurement.metrics)
    best.end(held, measurement.metrics, session.events, session.spec.training.keep_best)
    figures = {f"eval_{name}": value for name, value in measurement.metrics.items()}
    samples = {"samples": list(measurement.samples)} if measurement.samples else {}
    return figures | {"best": best.result(held)} | samples


def _finish(
    session: Session, stack: Stack, inputs: Inputs, trained: Trained, measured: dict[str, Any]
) -> None:
    """Write the model card and the record, and report the end."""
    import torch

    spec, run, device, callback = session.spec, session.run, stack.device, trained.callback
    versions = stack_versions()
    result = trained.figures | measured
    card = model_card(spec, result, versions, run.record().parent)
    (run.model / "README.md").write_text(card, encoding="utf-8")
    result |= {
        "tokens_per_second": round(callback.tokens / max(callback.train_seconds, 1e-9), 1),
        "train_seconds": round(callback.train_seconds, 3),
        "memory": {
            "after_imports": stack.memory,
            "peak": most_resident(),
            "peak_gpu": torch.cuda.max_memory_allocated() if device.cuda else None,
            "peak_gpu_reserved": torch.cuda.max_memory_reserved() if device.cuda else None,
        },
        "seconds": {name: round(spent, 3) for name, spent in session.clock.seconds.items()},
        "precision": device.precision,
        "gradient_checkpointing": callback.checkpointing,
        "backend": stack.backend.NAME,
        "versions": versions,
        "attention": trained.model.config._attn_implementation,
        "text_class": inputs.text_class,
    }
    run.update(status="finished", result=result, machine=machine(device))
    session.events("end", status="finished", result=result)


def _last(history: list[dict[str, Any]], key: str) -> float | None:
    return next((float(entry[key]) for entry in reversed(history) if key in entry), None)
