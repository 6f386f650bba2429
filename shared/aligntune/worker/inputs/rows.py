"""Load the rows of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligntune.data.rows import Rows, load
from aligntune.data.sources import Source
from aligntune.errors import SpecError
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.tasks import evaluation_set
from aligntune.worker.inputs.fetch import fetched
from aligntune.worker.inputs.model import locate
from aligntune.worker.text.assistant_turns import training_renderer
from aligntune.worker.text.checking import RenderedRows


def load_rows(spec: RunSpec, run: RunDir, tokenizer: Any) -> tuple[Rows, Rows | None]:
    """Training rows, and evaluation rows if the request has any."""
    wanted = spec.dataset
    limit = wanted.max_samples
    source = _source(wanted.name, spec, run, wanted.split)
    allowed = spec.row.formats
    chat = tokenizer.chat_template is not None
    rows = load(source, wanted.split, wanted, allowed, limit, chat, _check(tokenizer, spec))
    if wanted.eval_name or wanted.eval_split:
        return rows, held_out_rows(spec, run, tokenizer)
    if wanted.validation_fraction:
        if len(rows.dataset) < 2:
            raise SpecError(
                "dataset.validation_fraction needs at least 2 rows", "Use more rows, or remove it"
            )
        split_rows = rows.dataset.train_test_split(
            test_size=max(1, round(len(rows.dataset) * wanted.validation_fraction)),
            seed=spec.training.seed,
        )
        part = f"{wanted.validation_fraction:g} of {rows.source}"
        return (
            Rows(split_rows["train"], rows.format, rows.source, rows.notes),
            Rows(split_rows["test"], rows.format, part),
        )
    return rows, None


def held_out_rows(spec: RunSpec, run: RunDir, tokenizer: Any, limit: int | None = None) -> Rows:
    """The first ``limit`` rows of a separate evaluation set."""
    held_out = evaluation_set(spec)
    assert held_out is not None
    name, split = held_out
    source = _source(name, spec, run, split)
    chat = tokenizer.chat_template is not None
    check = _check(tokenizer, spec)
    return load(source, split, spec.dataset, spec.row.formats, limit, chat, check)


def _check(tokenizer: Any, spec: RunSpec) -> RenderedRows | None:
    """The check of every row against the chat template, if there is one."""
    if tokenizer.chat_template is None:
        return None
    return RenderedRows(lambda row: training_renderer(row, tokenizer, spec))


def _source(name: str, spec: RunSpec, run: RunDir, split: str) -> Source:
    if is_local(name):
        return Source(name, path=locate(name))
    files = fetched(run)["datasets"][f"{name}:{split.partition('[')[0]}"]["files"]
    return Source(name, arrow_files=tuple(Path(file) for file in files))
