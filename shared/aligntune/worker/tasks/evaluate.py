"""Evaluate a run's model, on the run's evaluation rows or on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligntune.data.rows import Rows
from aligntune.errors import DataError
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Evaluate, needs_reference
from aligntune.worker.families import Setup, family
from aligntune.worker.inputs.fetch import fetched
from aligntune.worker.inputs.model import load_config, load_model, locate, locate_model
from aligntune.worker.inputs.rewards import load_rewards
from aligntune.worker.inputs.rows import held_out_rows, load_rows
from aligntune.worker.modeling.generate import complete
from aligntune.worker.modeling.loss_head import LossHead
from aligntune.worker.modeling.reference import REFERENCE_ADAPTER
from aligntune.worker.tasks.saved import Saved
from aligntune.worker.text.stops import settle_run_ends
from aligntune.worker.text.tokenize import IGNORED

SAMPLES = 4
SAMPLE_TOKENS = 64
"""Number of rows that the model completes as samples, and tokens of each."""


def _reference(saved: Saved, spec: RunSpec, run: RunDir) -> Any | None:
    """The model that training started from, unless it is the saved model without its adapter."""
    if not needs_reference(spec):
        return None
    if spec.adapter.type == "none":
        path = locate_model(spec, run)
        config = load_config(spec, path)
        length, backend, device = saved.max_length, saved.backend, saved.device
        base = load_model(spec, path, config, length, backend, device, run, "causal")
        return base.to("cuda") if device.cuda else base
    if spec.adapter.path:  # the adapter that training started from
        name = spec.adapter.path
        path = locate(name) if Path(name).is_absolute() else Path(fetched(run)["adapter"]["path"])
        saved.model.load_adapter(str(path), adapter_name=REFERENCE_ADAPTER)
    return None


def evaluate(
    saved: Saved, spec: RunSpec, run: RunDir, events: EventWriter, task: Evaluate
) -> dict[str, Any]:
    """The family's figures on the rows that the task names, with a few samples."""
    rows = _rows(saved, spec, run, task)
    part = {"part": "evaluation", "rows": len(rows.dataset), "source": rows.source}
    events("data", format=rows.format, **part)
    rewards = load_rewards(spec, run, events, saved.device, rows)
    head = LossHead(saved.device, saved.backend.computes_loss())
    ends, _ = settle_run_ends(spec, saved.model, saved.tokenizer, rows.dataset)
    setup = Setup(
        spec, saved.tokenizer, saved.max_length, rewards, saved.backend.inference, head, ends
    )
    kind = family(spec.row)
    encoded = kind.encode(rows.dataset, setup, train=False)
    for note in (*rows.notes, *encoded.notes):
        events("note", message=f"evaluation: {note}")
    frozen = _reference(saved, spec, run)
    measurement = kind.measure(saved.model, encoded.dataset, setup, frozen)
    events("evaluate", **measurement.metrics)
    # Rows with labels have an answer, which the model is asked to write itself.
    labelled = "labels" in encoded.dataset.column_names
    samples = list(measurement.samples)
    if labelled:
        samples = _complete_rows(saved, encoded.dataset, spec)
    return {
        "metrics": measurement.metrics,
        "samples": samples,
        "rows": len(encoded.dataset),
        "source": rows.source,
    }


def _complete_rows(saved: Saved, rows: Any, spec: RunSpec) -> list[dict[str, Any]]:
    """The model's completions for a few rows, with the answers of the data."""
    tokenizer = saved.tokenizer
    prompts, answers = [], []
    for row in rows.select(range(min(SAMPLES, len(rows)))):
        ids, labels = row["input_ids"], row["labels"]
        start = next(n for n, label in enumerate(labels) if label != IGNORED)
        # If the whole text is learned, its first half is the prompt.
        start = start or max(len(ids) // 2, 1)
        prompts.append(ids[:start])
        answers.append(ids[start:])
    made = complete(
        saved.model,
        prompts,
        tokenizer,
        saved.backend.inference,
        spec.training.batch_size,
        seed=spec.training.seed,
        max_new_tokens=max(1, min(SAMPLE_TOKENS, max(map(len, answers)))),
        do_sample=False,
    )
    texts = zip(prompts, answers, made, strict=True)
    names = ("prompt", "reference", "completion")
    return [dict(zip(names, tokenizer.batch_decode(ids), strict=True)) for ids in texts]


def _rows(saved: Saved, spec: RunSpec, run: RunDir, task: Evaluate) -> Rows:
    tokenizer = saved.tokenizer
    limit = task.max_samples
    if spec.dataset.eval_name or spec.dataset.eval_split:
        return held_out_rows(spec, run, tokenizer, limit)
    rows = load_rows(spec, run, tokenizer)[1]  # the part that training left out
    if rows is None:
        raise DataError("there are no evaluation rows", "Set --dataset")
    if limit is None:
        return rows
    first = rows.dataset.select(range(min(limit, len(rows.dataset))))
    return Rows(first, rows.format, rows.source, rows.notes)
