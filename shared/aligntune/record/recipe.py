"""The recipe of a run in words: the block that is shown before the first step.

A recipe is plain data, in the ``start`` event and in ``run.json``. :mod:`aligntune.recipe`
says what the request alone determines, and the worker adds what it has counted. Values that are not
known yet are absent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Recipe = dict[str, Any]
"""Keys:

``title``, ``model``, ``adapter``, ``backend``, ``device``
    What is trained, with what and where; ``adapter`` is None for full fine-tuning.
``rows``, ``held_out``, ``tokens``, ``learned_tokens``
    Counts of the training rows as the trainer takes them, and of the evaluation rows.
``batch_size``, ``accumulation``, ``devices``, ``effective_batch``, ``few_rows``
    Sequences per device, batches and devices per step, their product, and whether the data has too
    few rows for the usual effective batch.
``epochs``, ``max_steps``, ``steps``
    Passes requested, or steps requested, and the resulting steps.
``learning_rate``, ``schedule``, ``warmup``, ``warmup_steps``, ``precision``
    How it is optimized; ``warmup`` as requested.
``learns``, ``example``
    Which tokens are learned, in words, and a row as a list of ``[text, learned]``.
``origins``
    Dotted key -> where its value came from, for the keys named here.
"""

SEPARATOR = " · "


def recipe_lines(recipe: Recipe) -> list[str]:
    """The recipe as a few lines of text."""
    groups = (_task(recipe), _amounts(recipe), _optimization(recipe))
    lines = [SEPARATOR.join(words) for words in map(list, groups) if words]
    if learns := recipe.get("learns"):
        lines.append(f"learns {learns}")
    if example := recipe.get("example"):
        lines.append(f"  for example {_example(example)}")
    return lines


def _task(recipe: Recipe) -> Iterator[str]:
    adapter = f" + {recipe['adapter']}" if recipe["adapter"] else ""
    yield recipe["title"]
    yield recipe["model"] + adapter
    device = f" on the {recipe['device']}" if recipe.get("device") else ""
    if backend := recipe.get("backend"):
        yield backend + device


def _amounts(recipe: Recipe) -> Iterator[str]:
    if (rows := recipe.get("rows")) is not None:
        yield f"{rows:,} rows ({recipe.get('held_out') or 0:,} held out)"
    if tokens := recipe.get("tokens"):
        learned = recipe.get("learned_tokens")
        share = f" ({100 * learned / tokens:.0f} % learned)" if learned is not None else ""
        yield f"{tokens:,} tokens{share}"
    size, accumulation = (
        recipe["origins"][f"training.{name}"] for name in ("batch_size", "gradient_accumulation")
    )
    accumulation = "few rows" if recipe.get("few_rows") else accumulation
    why = "; ".join(dict.fromkeys((size, accumulation)))
    parts = " x ".join(str(recipe[name]) for name in ("batch_size", "accumulation", "devices"))
    yield f"batch {parts} = {recipe['effective_batch']} sequences ({why})"
    if recipe.get("max_steps"):
        yield f"{_counted(recipe['max_steps'], 'step')} ({recipe['origins']['training.max_steps']})"
        return
    yield f"{_counted(recipe['epochs'], 'epoch')} ({recipe['origins']['training.epochs']})"
    if steps := recipe.get("steps"):
        yield _counted(steps, "step")


def _optimization(recipe: Recipe) -> Iterator[str]:
    origins = recipe["origins"]
    yield f"learning rate {recipe['learning_rate']:.3g} ({origins['training.learning_rate']})"
    yield f"{recipe['schedule']} ({origins['training.schedule']})"
    warmup, steps = recipe["warmup"], recipe.get("warmup_steps")
    amount = f"{100 * warmup:g} %" if warmup < 1 else _counted(int(warmup), "step")
    if warmup < 1 and steps:
        amount += f" = {_counted(steps, 'step')}"
    yield f"warm-up {amount} ({origins['training.warmup']})"
    if precision := recipe.get("precision"):
        yield precision


def _counted(number: float, name: str) -> str:
    amount = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{amount} {name}" + ("" if number == 1 else "s")


def _example(segments: list[Any]) -> str:
    """A row on one line; learned text is in «guillemets»."""
    return "".join(f"«{text}»" if learned else text for text, learned in segments).replace(
        "\n", "\\n"
    )
