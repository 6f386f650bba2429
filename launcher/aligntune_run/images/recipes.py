"""Recipes: what each image is made of, and the names that follow from it. Only reads files.

A recipe has two hashes. ``recipe_hash`` covers what decides the environment: the Dockerfile, the
locks and the files of the base. It is in the tag, so an environment is up to date if the engine has
the tag of its recipe. ``code_hash`` covers the worker's code, which changes far more often. It is
only a label, since a run mounts the launcher's code, see :mod:`aligntune_run.images.code`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import aligntune
import aligntune_run
from aligntune import contract
from aligntune.algorithms import BACKENDS
from aligntune.errors import ImageError
from aligntune.record.code_hash import BACKEND_FILE, code_hash

FLAVOURS = ("cuda", "cpu")
BASE_FILES = ("packages.txt", "tools.lock", "install.sh")
SHARED_STAGES_END = b"FROM scratch AS backend-inputs"
"""Where the Dockerfile's stages that both backends share end."""

PINS_VARIABLE = "ALIGNTUNE_PINS"


@dataclass(frozen=True)
class Sources:
    """The folders of the recipes and of the package ``aligntune``."""

    images: Path
    shared: Path


@dataclass(frozen=True)
class Recipe:
    """One image: what it is made from, its names, and what it can do.

    Attributes:
        recipe_hash: of everything that decides the environment.
        code_hash: of the worker's code, see :mod:`aligntune.record.code_hash`.
        ref: the tag of this environment; it moves only when a build renews the copy of the code.
        alias: the tag of the newest build, for compose and for people.
        base_ref: the tag of the layers shared with the other backend.
        pin: where the environment is published, by digest; None if it is not.
        facts: the backend's ``facts.json``.
    """

    sources: Sources
    backend: str
    flavour: str
    lock: Path
    lock_hash: str
    recipe_hash: str
    code_hash: str
    base_hash: str
    pin: str | None
    facts: dict[str, Any]

    @property
    def alias(self) -> str:
        return f"aligntune-{self.backend}:{self.flavour}"

    @property
    def ref(self) -> str:
        return f"{self.alias}-{self.recipe_hash[:12]}"

    @property
    def base_ref(self) -> str:
        return f"aligntune-base:{self.flavour}-{self.base_hash[:12]}"

    @property
    def flavour_facts(self) -> dict[str, Any]:
        """The facts that differ between flavours; empty until they have been measured."""
        return dict(self.facts.get("flavours", {}).get(self.flavour, {}))

    @property
    def expected_size(self) -> int | None:
        """Bytes on disk, as measured when the facts were made."""
        return self.flavour_facts.get("image_size")

    @property
    def download_size(self) -> int | None:
        """Bytes of the packages that a build downloads."""
        return self.flavour_facts.get("download_size")

    @property
    def versions(self) -> dict[str, str]:
        """The stack that the lock installs: distribution -> version."""
        return {**self.facts.get("versions", {}), **self.flavour_facts.get("versions", {})}

    @property
    def labels(self) -> dict[str, str]:
        """What the launcher can read about an image without starting it."""
        facts = self.flavour_facts
        return {
            contract.LABEL_CONTRACT: str(contract.CONTRACT_VERSION),
            contract.LABEL_BACKEND: self.backend,
            contract.LABEL_FLAVOUR: self.flavour,
            contract.LABEL_LOCK: self.lock_hash,
            contract.LABEL_RECIPE: self.recipe_hash,
            contract.LABEL_CODE: self.code_hash,
            contract.LABEL_VERSIONS: json.dumps(self.versions, separators=(",", ":")),
            contract.LABEL_CUDA: facts.get("cuda") or "",
            contract.LABEL_MIN_DRIVER: facts.get("min_driver") or "",
            contract.LABEL_MIN_CAPABILITY: facts.get("min_compute_capability") or "",
        }


def images_dir() -> Path:
    """The recipes: inside the installed package, or ``images/`` of the clone it runs from."""
    inside = Path(aligntune_run.__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(aligntune_run.__file__).parents[2] / "images"


def sources() -> Sources:
    """Where this installation keeps its recipes and the worker's code."""
    return Sources(images_dir(), Path(aligntune.__file__).parent)


def recipe(backend: str, flavour: str, where: Sources | None = None) -> Recipe:
    """The recipe of one image.

    Raises:
        ImageError: the backend or flavour does not exist, or a file of it is missing.
    """
    where = where or sources()
    folder = where.images / backend
    lock = folder / f"{flavour}.lock"
    if not lock.is_file():
        known = ", ".join(f"{one} {other}" for one, other in _available(where))
        raise ImageError(f"there is no {flavour} image of {backend}", f"There are: {known}")
    base = [where.images / "base" / name for name in (*BASE_FILES, f"{flavour}.lock")]
    try:
        dockerfile = (where.images / "Dockerfile").read_bytes()
        shared_stages = dockerfile.partition(SHARED_STAGES_END)[0]
        return Recipe(
            sources=where,
            backend=backend,
            flavour=flavour,
            lock=lock,
            lock_hash=sha256(lock.read_bytes()).hexdigest(),
            base_hash=_hash(where.images, base, shared_stages),
            recipe_hash=_hash(where.images, [*base, lock], dockerfile),
            code_hash=code_hash(where.shared, folder / BACKEND_FILE),
            pin=_pins(where).get(f"{backend}/{flavour}"),
            facts=json.loads((folder / "facts.json").read_text()),
        )
    except (OSError, json.JSONDecodeError) as error:
        raise ImageError(
            f"the recipe of {backend} {flavour} cannot be read: {error}", "Install again"
        ) from error


def recipes(where: Sources | None = None) -> tuple[Recipe, ...]:
    """All recipes, the faster backend first."""
    where = where or sources()
    return tuple(recipe(backend, flavour, where) for backend, flavour in _available(where))


def facts(where: Sources | None = None) -> dict[str, dict[str, Any]]:
    """Every backend's ``facts.json``, by backend."""
    return {recipe.backend: recipe.facts for recipe in recipes(where)}


def _available(where: Sources) -> list[tuple[str, str]]:
    return [
        (backend, flavour)
        for backend in BACKENDS
        for flavour in FLAVOURS
        if (where.images / backend / f"{flavour}.lock").is_file()
    ]


def _hash(root: Path, files: Iterable[Path], *more: bytes) -> str:
    """One hash over the names and contents of files, and any further bytes."""
    total = sha256()
    for path in files:
        total.update(f"{path.relative_to(root)}\0".encode())
        total.update(sha256(path.read_bytes()).digest())
    for content in more:
        total.update(sha256(content).digest())
    return total.hexdigest()


def _pins(where: Sources) -> dict[str, str]:
    """Published images by digest: ``{"trl/cuda": "registry/name@sha256:..."}``."""
    named = os.environ.get(PINS_VARIABLE)
    path = Path(named) if named else where.images / "pins.json"
    try:
        pins = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ImageError(f"{path}: {error}", f"Fix the file, or unset {PINS_VARIABLE}") from error
    if not isinstance(pins, dict):
        raise ImageError(
            f"{path} does not hold an object of pins", f"Fix the file, or unset {PINS_VARIABLE}"
        )
    for name, pin in pins.items():
        if "@sha256:" not in str(pin):
            raise ImageError(
                f"{path}: {name}: {pin!r} is not a digest", "Use registry/name@sha256:…"
            )
    return {str(name): str(pin) for name, pin in pins.items()}
