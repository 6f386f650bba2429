"""The modules that an adapter names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aligntune.errors import SpecError
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.suggest import nearest

SHOWN = 12
"""The most names that a message lists."""


def require_modules(model: Any, spec: RunSpec) -> None:
    """Refuse names of modules that the model does not have.

    PEFT refuses targets only if none of them matches, and then names no module that would.

    Raises:
        SpecError: a name in ``adapter.targets`` or ``adapter.modules_to_save`` matches nothing.
    """
    weighed = [(name, part) for name, part in model.named_modules() if name]
    targets = spec.adapter.targets if isinstance(spec.adapter.targets, list) else []
    head = model.get_output_embeddings()
    linear = {_leaf(name) for name, part in weighed if _is_linear(part) and part is not head}
    owning = {_leaf(name) for name, part in weighed if any(True for _ in part.parameters(False))}
    names = [name for name, _ in weighed]
    _require("adapter.targets", targets, names, linear, spec)
    _require("adapter.modules_to_save", spec.adapter.modules_to_save, names, owning, spec)


def _require(
    key: str, wanted: Iterable[str], names: list[str], offered: set[str], spec: RunSpec
) -> None:
    for target in wanted:
        # As PEFT matches names, see peft.tuners.tuners_utils.check_target_module_exists.
        if not any(name == target or name.endswith(f".{target}") for name in names):
            there = sorted(name for name in offered if not name.isdigit())
            more = ", ..." if len(there) > SHOWN else ""
            raise SpecError(
                f"{key}: {spec.model.name} has no module {target!r}{nearest(target, there)}",
                f"Its modules are {', '.join(there[:SHOWN])}{more}",
            )


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _is_linear(part: Any) -> bool:
    """Whether PEFT counts a module as linear: ``nn.Linear``, its kinds, or GPT-2's ``Conv1D``."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(part, torch.nn.Linear | Conv1D)
