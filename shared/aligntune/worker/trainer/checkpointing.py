"""Whether gradient checkpointing is active: a backend's rollout or evaluation can change it."""

from __future__ import annotations

from typing import Any


def is_checkpointing(model: Any) -> bool:
    """Whether any module of ``model`` has checkpointing switched on.

    Each decoder layer has its own switch; Unsloth may store the word ``unsloth`` for True.
    """
    return any(bool(layer.gradient_checkpointing) for layer in _layers(model))


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]


class CheckpointingWatch:
    """Looks at every step whether gradient checkpointing is what the plan says.

    Args:
        model: that is trained.
        planned: whether it is to checkpoint.

    Attributes:
        active: what was seen last.
    """

    def __init__(self, model: Any, planned: bool) -> None:
        self._layers = _layers(model)  # walking all modules at every step would take milliseconds
        self._planned = planned
        self._warned = False
        self.active = is_checkpointing(model)

    def look(self, step: int) -> str | None:
        """Look again; a message the first time that it differs from the plan."""
        self.active = any(bool(layer.gradient_checkpointing) for layer in self._layers)
        if self.active == self._planned or self._warned:
            return None
        self._warned = True
        planned, found = ("on", "off") if self._planned else ("off", "on")
        return f"gradient checkpointing was planned {planned} and is {found} at step {step}"
