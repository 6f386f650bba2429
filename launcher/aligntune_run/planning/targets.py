"""Whether the model has the modules that an adapter is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from aligntune.errors import shown
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.suggest import nearest
from aligntune_run.check import Result, fails
from aligntune_run.models.facts import ModelFacts

NOT_IN_HEADERS = ("embed", "lm_head", "wte", "score")
"""Parts of names of modules that an adapter can have, and that no list of linear layers has."""


def missing_targets(spec: RunSpec, model: ModelFacts) -> Iterator[Result]:
    """A failure for each target that the model does not have.

    The worker checks the loaded model. The headers of the weights decide only where their names are
    certain to be those of the modules: a plain decoder without experts.
    """
    targets, known = spec.adapter.targets, [name for name, _ in model.linear]
    certain = known and model.shape is not None and model.shape.experts_per_token == 1
    if spec.adapter.type == "none" or targets == "all-linear" or not certain:
        return
    for target in targets:
        module = target.rpartition(".")[2]
        if module in known or any(part in module for part in NOT_IN_HEADERS):
            continue
        yield fails(
            f"adapter.targets: {spec.model.name} has no module {shown(target)!r}"
            f"{nearest(module, known)}",
            f"Its linear layers are {', '.join(known)}",
        )
