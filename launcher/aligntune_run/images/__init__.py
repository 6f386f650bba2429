"""Images: what they are made of, how they are built or pulled, and which ones are here."""

from __future__ import annotations

from aligntune_run.images.builder import build, find_buildkit_client
from aligntune_run.images.indexes import find_torch_wheel
from aligntune_run.images.listing import Listed, list_images, prune
from aligntune_run.images.recipes import Recipe, Sources, facts, images_dir, recipe, recipes
from aligntune_run.images.store import (
    PullPolicy,
    announcement,
    check_labels,
    derived_state,
    obtain,
    present,
    states,
)

__all__ = [
    "Listed",
    "PullPolicy",
    "Recipe",
    "Sources",
    "announcement",
    "build",
    "check_labels",
    "derived_state",
    "facts",
    "find_buildkit_client",
    "find_torch_wheel",
    "images_dir",
    "list_images",
    "obtain",
    "present",
    "prune",
    "recipe",
    "recipes",
    "states",
]
