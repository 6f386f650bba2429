"""The worker's code, which this installation gives to every environment that a run starts in.

An image holds a copy of the code, so that it works without the launcher. The launcher mounts its
own code over that copy, or puts it on the path of a venv. So a run always has the launcher's code,
and an image or a venv stays up to date when only code changes. The exception is the user's own
image: nothing is mounted over its code, which may be the user's too.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from aligntune.errors import EngineError
from aligntune.record.code_hash import BACKEND_FILE
from aligntune_run.images.recipes import Recipe


def code_folder(backend: str, code_hash: str, cache: Path) -> Path:
    """The folder of the code in the user's cache. Its name holds the hash, so it never changes."""
    return cache / "code" / f"{backend}-{code_hash[:12]}"


def lay_out_code(recipe: Recipe, cache: Path) -> Path:
    """Copy the code into the user's cache, whole or not at all; returns its folder.

    It is a copy so that a clone may be edited while a run works, and so that the launcher's own
    packages, whose versions are not the lock's, stay off the worker's path.

    Raises:
        EngineError: the cache cannot be written.
    """
    folder = code_folder(recipe.backend, recipe.code_hash, cache)
    try:
        if not folder.exists():
            _copy(recipe, folder)
    except OSError as error:
        raise EngineError(
            f"cannot write to the cache {cache}: {error.strerror}",
            "Make room there, or name another place with ALIGNTUNE_CACHE_DIR",
        ) from error
    return folder


def _copy(recipe: Recipe, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        beside = Path(name, "code")
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(recipe.sources.shared, beside / "aligntune", ignore=ignore)
        shutil.copy(recipe.lock.with_name(BACKEND_FILE), beside)
        try:
            beside.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another run was quicker
                raise
