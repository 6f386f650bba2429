"""The Python API: create a trainer, see which backends are available.

It can be imported without torch. A request runs in the chosen image or, inside an image, in this
process. Precedence: default < ``config`` < environment < arguments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Unpack

from aligntune.algorithms import ALGORITHMS, BACKENDS
from aligntune.api.discover import find_runner
from aligntune.api.keywords import Config, Keywords, RLKeywords, SFTKeywords, settings
from aligntune.api.results import (
    Evaluation,
    Planned,
    Prediction,
    Predictions,
    Pushed,
    Saved,
    TrainResult,
)
from aligntune.api.runner import BackendStatus, Selection
from aligntune.api.trainer import Trainer
from aligntune.errors import SpecError
from aligntune.spec.layers import Layer
from aligntune.spec.resolve import resolve

__all__ = [
    "BackendStatus",
    "Evaluation",
    "Keywords",
    "Planned",
    "Prediction",
    "Predictions",
    "Pushed",
    "RLKeywords",
    "SFTKeywords",
    "Saved",
    "Selection",
    "TrainResult",
    "Trainer",
    "create_rl_trainer",
    "create_sft_trainer",
    "get_backend_status",
    "list_backends",
    "validate_backend_selection",
]

Backend = Literal["auto", "trl", "unsloth"]


def create_sft_trainer(
    model_name: str | os.PathLike[str] | None = None,
    dataset_name: str | os.PathLike[str] | None = None,
    backend: Backend | None = None,
    *,
    config: Config | None = None,
    **keywords: Unpack[SFTKeywords],
) -> Trainer:
    """A trainer for supervised fine-tuning. Nothing starts before you call one of its methods.

    Args:
        model_name: local folder or hub id, or the run directory of an earlier run.
        dataset_name: file, folder or hub id.
        backend: ``auto`` (the default) selects the fastest backend that runs here; ``trl`` always
            selects TRL; ``unsloth`` falls back to TRL, with a warning, if it is unavailable.
        config: a YAML file, or a mapping of the same keys; arguments override it.
        keywords: see :class:`~aligntune.api.keywords.SFTKeywords` and the table in
            docs/python-api.md; you can set every key of a RunSpec, as ``training={"warmup": 10}``.

    Raises:
        SpecError: a keyword is unknown (the message suggests a similar one), or a value is not
            valid.
    """
    named = {"model_name": model_name, "dataset_name": dataset_name, "backend": backend}
    return Trainer(settings(config, {**_without_none(named), **keywords}, only="sft"))


def create_rl_trainer(
    model_name: str | os.PathLike[str] | None = None,
    dataset_name: str | os.PathLike[str] | None = None,
    backend: Backend | None = None,
    *,
    algorithm: str | None = None,
    config: Config | None = None,
    **keywords: Unpack[RLKeywords],
) -> Trainer:
    """A trainer that learns from preferences or rewards: every algorithm but ``sft``.

    Args:
        model_name: as for :func:`create_sft_trainer`.
        dataset_name: as for :func:`create_sft_trainer`.
        backend: as for :func:`create_sft_trainer`.
        algorithm: ``dpo``, ``ppo``, ``grpo``, ``dapo``, ``dr_grpo``, ``gspo``, ``rloo``, ``kto`` or
            ``reward``.
        config: as for :func:`create_sft_trainer`.
        keywords: see :class:`~aligntune.api.keywords.RLKeywords`. ``reward_functions`` are names
            (docs/rewards.md), ``"path.py:function"``, or functions at the top level of a module.

    Raises:
        SpecError: as for :func:`create_sft_trainer`.
    """
    if algorithm == "sft":
        raise SpecError("algorithm='sft' is not for create_rl_trainer", "Use create_sft_trainer")
    named = {"model_name": model_name, "dataset_name": dataset_name, "backend": backend}
    made = settings(config, {**_without_none({"algorithm": algorithm, **named}), **keywords})
    if made.spec.algorithm == "sft":
        raise SpecError("the config sets algorithm: sft", "Use create_sft_trainer")
    return Trainer(made)


def get_backend_status() -> dict[str, BackendStatus]:
    """Which backends are available here, with reasons, by name: ``status["trl"]["available"]``.

    Only looks at this machine: it imports no backend, downloads no image and starts no container.
    """
    return find_runner().status()


def list_backends() -> list[str]:
    """Every backend, the fastest first, whether or not it is available here."""
    return list(BACKENDS)


def validate_backend_selection(
    backend: Backend = "auto",
    algorithm: str = "sft",
    model_name: str | os.PathLike[str] | None = None,
    *,
    strict: bool = False,
) -> Selection:
    """The choice for a request, with the verdict of every rule; changes nothing.

    Args:
        backend: the requested backend.
        algorithm: the requested algorithm.
        model_name: folder or hub id; None skips the check that the backend supports the model.
        strict: fail if the requested backend is unavailable, instead of falling back.

    Raises:
        AligntuneError: no backend here can run it, or ``strict`` prevents a fallback.
    """
    row = ALGORITHMS.get(algorithm)
    values: dict[str, Any] = {
        "algorithm": algorithm,
        "backend": backend,
        "strict": strict,
        "model": os.fspath(model_name) if model_name is not None else "a model",
        "dataset": "data",
        **({"rewards": ["length"]} if row and row.online else {}),
    }
    here = None if model_name is None else Path.cwd()
    spec = resolve([Layer("validate_backend_selection", values)], here).spec
    return find_runner().select(spec, model_name is not None)


def _without_none(named: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value is not None}
