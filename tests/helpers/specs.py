"""Specs from layers of settings."""

from __future__ import annotations

from typing import Any

from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec

NEEDED: dict[str, Any] = {"algorithm": "sft", "model": "org/model", "dataset": "org/data"}


def spec_of(*assignments: str, **values: Any) -> RunSpec:
    """The spec of the needed keys, others given as keywords, and ``--set`` assignments."""
    return resolve(
        [Layer("test", NEEDED), Layer("keywords", values), *map(from_assignment, assignments)]
    ).spec
