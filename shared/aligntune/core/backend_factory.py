"""The Python API: make a trainer, see which backends can be had.

Importable where there is no torch; what is asked for runs in the image that is chosen, or, inside
one, in this process. Precedence: default < ``config`` < environment < what is passed here.
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
    """A trainer for supervised fine-tuning. Nothing is started before one of its methods is called.

    Args:
        model_name: local folder or hub id, or the run directory of an earlier run.
        dataset_name: file, folder or hub id.
        backend: ``auto`` (the default) takes the fastest that runs here; ``trl`` is TRL, always;
            ``unsloth`` falls back to TRL, with a warning, where it cannot be had.
        config: a YAML file, or a mapping of the same keys, for what is not said here.
        keywords: see :class:`~aligntune.api.keywords.SFTKeywords` and the table in
            docs/python-api.md; every key of a RunSpec is reached, as ``training={"warmup": 10}``.

    Raises:
        SpecError: a keyword is unknown (the nearest known one is named), or a value cannot be.
    """
    named = {"model_name": model_name, "dataset_name": dataset_name, "backend": backend}
    return Trainer(settings(config, {**_said(named), **keywords}, only="sft"))


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
            (docs/rewards.md), ``"path.py:function"``, or functions at the top of a module.

    Raises:
        SpecError: as for :func:`create_sft_trainer`.
    """
    if algorithm == "sft":
        raise SpecError("algorithm='sft' is no reinforcement learning", "Use create_sft_trainer")
    named = {"model_name": model_name, "dataset_name": dataset_name, "backend": backend}
    made = settings(config, {**_said({"algorithm": algorithm, **named}), **keywords})
    if made.spec.algorithm == "sft":
        raise SpecError("the config says algorithm: sft", "Use create_sft_trainer")
    return Trainer(made)


def get_backend_status() -> dict[str, BackendStatus]:
    """Which backends can be had here, by name: ``status["trl"]["available"]``, with reasons.

    Looks at this machine and changes nothing: no backend is imported, no image obtained, no
    container started.
    """
    return find_runner().status()


def list_backends() -> list[str]:
    """Every backend there is, the faster first, whether or not it can be had here."""
    return list(BACKENDS)


def validate_backend_selection(
    backend: Backend = "auto",
    algorithm: str = "sft",
    model_name: str | os.PathLike[str] | None = None,
    *,
    strict: bool = False,
) -> Selection:
    """What would be chosen for a request, with every rule's verdict; changes nothing.

    Args:
        backend: what is asked for.
        algorithm: what is to be trained by.
        model_name: folder or hub id; None leaves out whether the backend knows the model.
        strict: a backend that was asked for and cannot be had is an error, not a fallback.

    Raises:
        AligntuneError: nothing here can run it, or ``strict`` forbids what can; it says why.
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


def _said(named: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value is not None}
