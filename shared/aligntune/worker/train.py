"""One run, top to bottom: load the model, load the data, train, evaluate, save, record."""

from __future__ import annotations

import json
import os
import re
import shutil
import traceback
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, OutputError, SpecError, StoppedError, TrainingError
from aligntune.failures import first_line, foreseen
from aligntune.packages import require_packages
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.suggest import nearest
from aligntune.spec.trainer_args import longest_row, refuse_owned, rounds, save_steps
from aligntune.worker.backend import Backend, installed
from aligntune.worker.device import find_device
from aligntune.worker.families import Setup, family, trainer_classes
from aligntune.worker.inputs.fetch import fetch_missing
from aligntune.worker.inputs.fingerprints import of_model, of_rows, other_inputs
from aligntune.worker.inputs.model import (
    load_config,
    load_model,
    load_tokenizer,
    locate_model,
    require_matching,
    row_length,
)
from aligntune.worker.inputs.rewards import load_rewards
from aligntune.worker.inputs.rows import load_rows
from aligntune.worker.inputs.tokenize import is_chat
from aligntune.worker.metrics import Measurement
from aligntune.worker.model_card import model_card
from aligntune.worker.process_memory import most_resident, resident
from aligntune.worker.result import Clock, machine, record_code, save, stack_versions
from aligntune.worker.stop_signal import StopSignal
from aligntune.worker.trainer.arguments import trainer_arguments
from aligntune.worker.trainer.measured import measured
from aligntune.worker.trainer.token_count import counted_tokens


def train(spec: RunSpec, run: RunDir, events: EventWriter) -> None:
    """Train what ``spec`` says and leave the result in ``run``.

    Raises:
        AligntuneError: anything foreseen, by class.
    """
    stop = StopSignal()
    clock = Clock(events)
    _claim(spec, run)
    record_code(run, events)
    refuse_owned(spec)

    with clock.phase("import"):
        backend = installed()
        row, kind = spec.row, family(spec.row)
        if backend.NAME not in row.backends:
            raise SpecError(f"{row.title} does not run on {backend.NAME}", "Use --backend trl")
        require_packages(spec, backend.NAME)
        backend.prepare()
        import datasets
        import torch
        import transformers

        from aligntune.worker.modeling.loss_head import LossHead
        from aligntune.worker.process_memory import trim, trim_after_forward
        from aligntune.worker.trainer.callback import EventCallback
        from aligntune.worker.trainer.losses import summed_losses
        from aligntune.worker.trainer.sampling import seeded_order

        trainer_class, config_class = trainer_classes(row)
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.set_seed(spec.training.seed)
        device = find_device(spec, run)
        after_imports = resident()
        events("note", message=f"computing in {device.precision} on the {device.name}")

    fetch_missing(spec, run, events)
    with clock.phase("load_model"):
        path = locate_model(spec, run)
        tokenizer = load_tokenizer(spec, path)
        config = load_config(spec, path)
        max_length = row_length(spec, config)
        if max_length != longest_row(spec):
            events("note", message=f"the model takes {max_length} tokens at most")
        model = load_model(spec, path, config, max_length, backend, device, run, kind.HEAD)
        require_matching(tokenizer, model, spec)

    with clock.phase("load_data"):
        chat = tokenizer.chat_template is not None
        train_rows, eval_rows = load_rows(spec, run, chat)
        parts = {"train": train_rows} | ({"evaluation": eval_rows} if eval_rows else {})
        rewards = load_rewards(spec, run, events, device, *parts.values())
        head = LossHead(device, backend.computes_loss())
        setup = Setup(spec, tokenizer, max_length, rewards, backend.inference, head)
        encoded = {}
        inputs: dict[str, Any] = {
            "model": {"source": spec.model.name, "fingerprint": of_model(path)},
            **other_inputs(spec, run),
        }
        for part, rows in parts.items():
            events(
                "data", part=part, rows=len(rows.dataset), format=rows.format, source=rows.source
            )
            inputs[part] = {
                "source": rows.source,
                "sha256": of_rows(rows.dataset),
                "chat": is_chat(rows.dataset) or "messages" in rows.dataset.column_names,
            }
            made = kind.encode(rows.dataset, setup, part == "train")
            encoded[part] = made.dataset
            for note in made.notes:
                events("note", message=f"{part}: {note}")

    def measure(model: Any, rows: Any) -> Measurement:
        if not device.cuda:
            trim()
        return kind.measure(model, rows, setup, getattr(trainer, "ref_model", None))

    with clock.phase("train"):
        steps = rounds(spec)
        callback = EventCallback(events, stop, steps)
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / "tensorboard")
        arguments = trainer_arguments(
            spec, kind, device, run.checkpoints, "evaluation" in encoded, max_length
        )
        arguments = backend.trainer_arguments(spec, arguments) | _of_backend(spec, backend)
        if (every := save_steps(spec)) != spec.training.save_steps:
            events("note", message=f"checkpoints are written every {every} steps, see save_steps")
        try:
            made_of = untouched(trainer_class) if kind.PREPARED else trainer_class
            ours = measured(counted_tokens(seeded_order(made_of)), measure)
            trainer = summed_losses(ours, callback.losses)(
                model=model,
                args=config_class(**_accepted(arguments, config_class, spec, backend)),
                train_dataset=encoded["train"],
                eval_dataset=encoded.get("evaluation"),
                processing_class=tokenizer,
                callbacks=[callback],
                **kind.extras(setup),
            )
        except (ValueError, TypeError, ImportError) as error:
            traceback.print_exc()
            raise SpecError(f"{config_class.__name__} refuses this: {first_line(error)}") from error
        _quieten(trainer)
        if not device.cuda:
            trim_after_forward(trainer.model)
        stop.begun = True
        _train(trainer, _checkpoint(run))
        if stop.asked and trainer.state.global_step < trainer.state.max_steps:
            raise StoppedError(
                f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}, "
                "with a checkpoint",
                f"Go on with: aligntune-run --resume {run.record().get('run_dir', run.path)}",
            )

    result: dict[str, Any] = {
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch or 0), 4),
        "train_loss": callback.losses.mean(trainer.state.global_step),
        "final_loss": _last(trainer.state.log_history, "loss"),
        "tokens": int(trainer.state.num_input_tokens_seen),
        "resumed_from": callback.resumed_from,
        **callback.sizes,
    }
    # Accelerate's wrapper would copy all outputs to float32.
    plain = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    with clock.phase("save"):  # before the evaluation, which so cannot lose what was learned
        save(trainer, tokenizer, run)
    if "evaluation" in encoded:
        with clock.phase("evaluate"):
            # With what the trainer has added to rows that are left to it, such as a reference's.
            rows = trainer.eval_dataset if kind.PREPARED else encoded["evaluation"]
            found = measure(plain, rows)
            events("evaluate", step=trainer.state.global_step, **found.metrics)
            result |= {f"eval_{name}": value for name, value in found.metrics.items()}
            result |= {"samples": list(found.samples)} if found.samples else {}
    versions = stack_versions()
    card = model_card(spec, result, versions)
    (run.model / "README.md").write_text(card, encoding="utf-8")

    seconds = clock.seconds
    result |= {
        "tokens_per_second": round(callback.tokens / max(callback.train_seconds, 1e-9), 1),
        "train_seconds": round(callback.train_seconds, 3),
        "memory": {
            "after_imports": after_imports,
            "peak": most_resident(),
            "peak_gpu": torch.cuda.max_memory_allocated() if device.cuda else None,
            "peak_gpu_reserved": torch.cuda.max_memory_reserved() if device.cuda else None,
        },
        "seconds": {name: round(spent, 3) for name, spent in seconds.items()},
        "precision": device.precision,
        "gradient_checkpointing": callback.checkpointing,
        "backend": backend.NAME,
        "versions": versions,
        "attention": plain.config._attn_implementation,
    }
    run.update(status="finished", result=result, inputs=inputs, machine=machine(device))
    events("end", status="finished", result=result)


def _claim(spec: RunSpec, run: RunDir) -> None:
    """Write the record of a run that is under way; a finished one is never trained over."""
    record = run.record()
    if record.get("status") == "finished":
        raise OutputError(f"{run.path} holds a finished run", "Use a new run directory")
    run.update(status="running", spec=spec.model_dump(mode="json"))
    if not run.spec.exists():
        run.spec.write_text(spec.to_yaml(), encoding="utf-8")


def untouched(trainer: type[Any]) -> type[Any]:
    """``trainer`` that takes rows as they are, as :meth:`Family.encode` has made them."""

    class Untouched(trainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    Untouched.__name__ = trainer.__name__
    return Untouched


def _of_backend(spec: RunSpec, backend: Backend) -> dict[str, Any]:
    """The trainer's arguments among those that are meant for this backend only."""
    own = spec.of_backend(backend.NAME)
    return {name: own[name] for name in own if name not in backend.model_arguments()}


def _accepted(
    arguments: dict[str, Any], config: type[Any], spec: RunSpec, backend: Backend
) -> dict[str, Any]:
    """The arguments that this configuration knows; what the user named has to be known."""
    own = _of_backend(spec, backend)
    known = {item.name for item in fields(config)}
    for section, given in (("trainer_args", spec.trainer_args), (backend.NAME, own)):
        for name in given:
            if name not in known:
                raise SpecError(
                    f"{section}.{name}: {config.__name__} has no such argument"
                    f"{nearest(name, sorted(known))}"
                )
    return {name: value for name, value in arguments.items() if name in known}


def _quieten(trainer: Any) -> None:
    """Events tell the progress; the trainer's own printing of dictionaries would only repeat it."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


def _train(trainer: Any, checkpoint: str | None) -> None:
    from aligntune.worker.trainer.callback import NothingLeft

    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except NothingLeft:  # it died after its last step, and has its last weights again
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            trainer._load_best_model()
    except AligntuneError:
        raise
    except Exception as error:
        known = foreseen(error)
        if known is None:
            traceback.print_exc()
            remedy = "The traceback is at the end of train.log"
            if checkpoint:
                remedy += f"; if {Path(checkpoint).name} is damaged, remove it and --resume again"
            known = TrainingError(
                f"the trainer failed: {type(error).__name__}: {first_line(error)}", remedy
            )
        raise known from error


def _checkpoint(run: RunDir) -> str | None:
    """The newest complete checkpoint of an earlier try at this run, if there is one.

    The trainer writes its state last: a checkpoint without a whole one was cut off and is removed.
    """
    names = (path.name for path in run.checkpoints.glob("checkpoint-*"))
    steps = [int(name.split("-")[1]) for name in names if re.fullmatch(r"checkpoint-\d+", name)]
    for step in sorted(steps, reverse=True):
        path = run.checkpoints / f"checkpoint-{step}"
        with suppress(OSError, ValueError):
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path)
        shutil.rmtree(path)
    return None


def _last(history: list[dict[str, Any]], key: str) -> float | None:
    return next((float(entry[key]) for entry in reversed(history) if key in entry), None)
