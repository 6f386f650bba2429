"""What a request alone determines of a run's recipe, and where each value came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from aligntune.algorithms import ALGORITHMS
from aligntune.record.recipe import Recipe
from aligntune.spec.run_spec import ADAPTER_FACTOR, RunSpec

SHOWN = tuple(
    f"training.{name}"
    for name in (
        *("epochs", "max_steps", "batch_size", "gradient_accumulation"),
        *("learning_rate", "schedule", "warmup"),
    )
)
"""Keys whose origin is part of the recipe."""


def known_recipe(spec: RunSpec, origins: Mapping[str, str]) -> Recipe:
    """The recipe before anything is loaded.

    Args:
        origins: dotted key -> where its value came from, as in ``Settings``.
    """
    training = spec.training
    accumulation = training.accumulation()
    return {
        "title": spec.row.title,
        "model": Path(spec.model.name).name,
        "adapter": adapter_in_words(spec),
        "batch_size": training.batch_size,
        "accumulation": accumulation,
        "devices": 1,
        "effective_batch": training.batch_size * accumulation,
        "epochs": training.epochs,
        "max_steps": training.max_steps,
        "learning_rate": training.learning_rate,
        "schedule": training.schedule,
        "warmup": training.warmup,
        "learns": spec.row.learns,
        "origins": {key: origin(spec, origins, key) for key in SHOWN},
    }


def adapter_in_words(spec: RunSpec) -> str | None:
    """The adapter's shape, such as ``LoRA rank 16, alpha 32``; None for full fine-tuning."""
    adapter = spec.adapter
    if adapter.type == "none":
        return None
    if adapter.path:
        return f"the adapter {Path(adapter.path).name}"
    kind = "DoRA" if adapter.dora else "rsLoRA" if adapter.rslora else "LoRA"
    quantized = spec.model.quantization
    bits = "" if quantized == "none" else f" on {quantized} weights"
    whole = f", {' and '.join(adapter.modules_to_save)} whole" if adapter.modules_to_save else ""
    return f"{kind} rank {adapter.rank}, alpha {adapter.lora_alpha:g}{whole}{bits}"


def origin(spec: RunSpec, origins: Mapping[str, str], key: str) -> str:
    """Where the value of a dotted key came from, in a few words.

    A worker that was started by hand has no origins. Then a value that equals the default counts as
    that.
    """
    if key in origins:
        return Path(origins[key]).name if origins[key].startswith("/") else origins[key]
    section, _, name = key.partition(".")
    part = getattr(spec, section)
    value, own = getattr(part, name), ALGORITHMS[spec.algorithm].defaults.get(key)
    if own is None:
        return "default" if value == type(part).model_fields[name].default else "spec"
    adapted = spec.adapter.type != "none" and key == "training.learning_rate"
    same = math.isclose(value, own * ADAPTER_FACTOR) if adapted else value == own
    if not same:
        return "spec"
    return f"default for {spec.algorithm}" + (f", x {ADAPTER_FACTOR} for an adapter" * adapted)
