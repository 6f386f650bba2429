"""The caller's folders: our own cache, the Hugging Face caches and the hub's token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from aligntune.errors import EngineError


def home() -> Path:
    """The caller's home.

    Raises:
        EngineError: the user has none, as in a container with an unknown uid.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise EngineError(
            f"uid {os.getuid()} has no home folder to keep caches in",
            "Set HOME, or XDG_CACHE_HOME",
        ) from error


def cache_dir(environment: Mapping[str, str]) -> Path:
    """Where this program keeps venvs, compile caches and processed data."""
    if named := environment.get("ALIGNTUNE_CACHE_DIR"):
        return _absolute(named)
    return _caches(environment) / "aligntune"


def hub_caches(environment: Mapping[str, str]) -> tuple[Path, Path]:
    """The caller's own Hugging Face caches, as huggingface_hub finds them: hub and datasets."""
    hub, datasets = environment.get("HF_HUB_CACHE"), environment.get("HF_DATASETS_CACHE")
    return (
        _absolute(hub) if hub else _hub_home(environment) / "hub",
        _absolute(datasets) if datasets else _hub_home(environment) / "datasets",
    )


def token_file(environment: Mapping[str, str]) -> Path | None:
    """The file with the caller's hub token, if it exists (``HF_TOKEN`` is handled separately)."""
    named = environment.get("HF_TOKEN_PATH")
    path = _absolute(named) if named else _hub_home(environment) / "token"
    return path if path.is_file() else None


def _hub_home(environment: Mapping[str, str]) -> Path:
    if named := environment.get("HF_HOME"):
        return _absolute(named)
    return _caches(environment) / "huggingface"


def _caches(environment: Mapping[str, str]) -> Path:
    named = environment.get("XDG_CACHE_HOME")
    return _absolute(named) if named else home() / ".cache"


def _absolute(path: str) -> Path:
    return Path(os.path.expanduser(path)).absolute()
