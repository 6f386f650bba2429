"""Observes gradient checkpointing, which a backend's rollout or evaluation can change."""

from __future__ import annotations

from typing import Any


def is_checkpointing(model: Any) -> bool:
    """Whether checkpointing is on in any module of ``model``.

    Each decoder layer has its own switch; Unsloth may store ``"unsloth"`` instead of True.
    """
    return any(bool(layer.gradient_checkpointing) for layer in _layers(model))


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]


class CheckpointingWatch:
    """Checks at every step whether gradient checkpointing is as planned.

    Args:
        model: the trained model.
        planned: whether checkpointing should be on.

    Attributes:
        active: whether it was on at the last check.
    """

    def __init__(self, model: Any, planned: bool) -> None:
        self._layers = _layers(model)  # visiting all modules at every step would take milliseconds
        self._planned = planned
        self._warned = False
        self.active = is_checkpointing(model)

    def look(self, step: int) -> str | None:
        """Check again; returns a message the first time that it differs from the plan."""
        self.active = any(bool(layer.gradient_checkpointing) for layer in self._layers)
        if self.active == self._planned or self._warned:
            return None
        self._warned = True
        planned, actual = ("on", "off") if self._planned else ("off", "on")
        return f"gradient checkpointing was planned {planned} but is {actual} at step {step}"
