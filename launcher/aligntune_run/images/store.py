"""What images an engine has, which of them are up to date, and how to get one that is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aligntune import contract
from aligntune.algorithms import BACKENDS
from aligntune.errors import ImageError
from aligntune_run.host.docker_client import engine_errors
from aligntune_run.host.types import ImageState
from aligntune_run.images.builder import build, find_buildkit_client
from aligntune_run.images.indexes import find_torch_wheel
from aligntune_run.images.recipes import Recipe, recipes
from aligntune_run.subprocesses import Say

if TYPE_CHECKING:
    from docker import DockerClient

PullPolicy: TypeAlias = Literal["missing", "never", "always"]
How: TypeAlias = Literal["present", "pull", "build"]

LAYERS_STEP = 5
"""A pull speaks up each time so many more percent of the bytes announced so far have arrived."""


@dataclass(frozen=True)
class Listed:
    """One row of ``images list``.

    Attributes:
        id: the engine's id of the image; None for a recipe that has no image.
        digest: where it was pulled from, by digest; None for one built here.
        size: bytes, layers shared with other images included.
        state: ``up to date``, ``stale: ...``, ``missing``, or ``yours`` where it is of our recipe
            but not our build: one that was derived from ours, or that compose built.
        tags: those that are ours to remove, the one that tells the recipe last.
    """

    ref: str
    backend: str
    flavour: str
    id: str | None
    digest: str | None
    size: int | None
    versions: dict[str, str]
    state: str
    tags: tuple[str, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether it was made from another version of its recipe."""
        return self.state.startswith("stale")


def present(client: DockerClient, ref: str) -> str | None:
    """The id of an image, or None where the engine does not have it."""
    image = _inspect(client, ref)
    return str(image["Id"]) if image else None


@engine_errors()
def states(
    client: DockerClient | None, pull: PullPolicy = "missing", find_links: Sequence[str] = ()
) -> tuple[ImageState, ...]:
    """Every recipe's image, and how it can be had.

    Args:
        client: None where there is no engine: a venv is made of the same lock instead, so only
            what a lock needs beside an index is asked for, and neither pins nor ``pull`` matter.

    Raises:
        EngineError: the engine stopped answering.
    """

    @cache
    def builder() -> str:
        """Why nothing can be built here, if so; asked once, and only if an image is missing."""
        try:
            find_buildkit_client()
        except ImageError as error:
            return str(error)
        return ""

    found = []
    for recipe in recipes():
        if client is None:
            image = None
            how, reason = _how_made(recipe, find_links, str)
        else:
            image = present(client, recipe.ref)
            how, reason = _how(recipe, image, pull, find_links, builder)
        found.append(
            ImageState(
                backend=recipe.backend,
                flavour=recipe.flavour,
                ref=recipe.ref,
                lock_hash=recipe.lock_hash,
                id=image if how == "present" else None,  # else another one will run
                how=how,
                reason=reason,
            )
        )
    return tuple(found)


@engine_errors()
def derived_state(client: DockerClient, ref: str) -> ImageState:
    """The user's own image, which must be made from one of ours.

    Raises:
        ImageError: it is not here, not derived from ours, or breaks the launcher's contract.
        EngineError: the engine stopped answering.
    """
    image = _inspect(client, ref)
    if image is None:
        raise ImageError(f"there is no image {ref} here", f"Get it first: docker pull {ref}")
    labels = image["Config"].get("Labels") or {}
    check_labels(ref, labels)
    known = (
        (contract.LABEL_BACKEND, "|".join(BACKENDS)),
        (contract.LABEL_FLAVOUR, "cpu|cuda"),
        (contract.LABEL_LOCK, "[0-9a-f]{64}"),
    )
    for label, form in known:
        if not re.fullmatch(form, labels.get(label, "")):
            raise ImageError(
                f"{ref} is not made from an aligntune image: its label {label} is "
                f"{labels.get(label, '')[:80]!r}",
                "Derive it from one that `aligntune-run images list` shows",
            )
    return ImageState(
        backend=labels[contract.LABEL_BACKEND],
        flavour=labels[contract.LABEL_FLAVOUR],
        ref=ref,
        lock_hash=labels[contract.LABEL_LOCK],
        id=str(image["Id"]),
        how="present",
    )


def check_labels(ref: str, labels: Mapping[str, str]) -> None:
    """Raises ImageError where an image does not keep this launcher's contract."""
    theirs = labels.get(contract.LABEL_CONTRACT)
    if theirs is None:
        raise ImageError(
            f"{ref} is not made from an aligntune image: it has no label {contract.LABEL_CONTRACT}",
            "Derive it from one that `aligntune-run images list` shows",
        )
    if theirs != contract.CONTRACT_VERSION:
        raise ImageError(
            f"{ref} keeps version {theirs[:80]} of the contract between launcher and image; "
            f"this launcher keeps version {contract.CONTRACT_VERSION}",
            "Build it again on this version's image, or install the launcher it was made for",
        )


@engine_errors()
def obtain(
    client: DockerClient,
    recipe: Recipe,
    pull: PullPolicy = "missing",
    *,
    base: str = "auto",
    find_links: Sequence[str] = (),
    say: Say,
    agree: Callable[[str], bool] = lambda question: True,
) -> str:
    """The id of a recipe's image, which is pulled by its pinned digest or built if need be.

    Args:
        pull: ``missing`` obtains it only if it is not here, ``always`` in any case, ``never`` not.
        agree: is asked before gigabytes are fetched or written, with their size in the question.

    Raises:
        ImageError: it cannot be had, or the user did not agree.
        EngineError: the engine stopped answering.
    """
    image = present(client, recipe.ref)
    if image is not None and pull != "always":
        return image
    if pull == "never":
        raise ImageError(
            f"{recipe.ref} is not here, and --pull never forbids to obtain it",
            f"Run `aligntune-run images build {recipe.backend} --flavour {recipe.flavour}` first",
        )
    if not agree(f"{announcement(recipe)} Go on?"):
        raise ImageError(f"{recipe.ref} is not here, and was not wanted", "Agree, or use --image")
    if recipe.pin:
        try:
            return _pull(client, recipe, recipe.pin, say)
        except ImageError as error:
            say(f"{error.what}; building it instead")
    return build(client, recipe, base=base, find_links=find_links, say=say)


def announcement(recipe: Recipe) -> str:
    """What obtaining an image means, in bytes, for a person to judge."""
    how = "pulled" if recipe.pin else "built here"
    sizes = [
        f"{size / 1e9:.1f} GB {what}"
        for size, what in (
            (recipe.download_size, "to download"),
            (recipe.expected_size, "on disk"),
        )
        if size
    ]
    return f"{recipe.ref} is {how}{': ' if sizes else ''}{', '.join(sizes)}."


@engine_errors()
def list_images(client: DockerClient) -> tuple[Listed, ...]:
    """Every image of a recipe of ours that the engine has, then the recipes that have none.

    Raises:
        EngineError: the engine stopped answering.
    """
    ours = {(recipe.backend, recipe.flavour): recipe for recipe in recipes()}
    images = client.api.images(filters={"label": contract.LABEL_BACKEND})
    rows = [_row(image, ours) for image in images]
    current = {(row.backend, row.flavour) for row in rows if row.state == "up to date"}
    missing = [
        Listed(
            ref=recipe.ref,
            backend=recipe.backend,
            flavour=recipe.flavour,
            id=None,
            digest=recipe.pin,
            size=recipe.expected_size,
            versions=recipe.versions,
            state="missing",
        )
        for key, recipe in ours.items()
        if key not in current
    ]
    return (*sorted(rows, key=lambda row: (row.backend, row.flavour, row.state)), *missing)


@engine_errors()
def prune(client: DockerClient, say: Say) -> None:
    """Remove the images of ours that are stale, and what they alone kept on disk.

    Only tags of ours are removed, and never by force: what has a tag of the user's or was derived
    keeps its layers, and an image that a container uses stays and is named.

    Raises:
        EngineError: the engine stopped answering.
    """
    keep = {recipe.base_ref for recipe in recipes()}
    stale = [tag for image in list_images(client) if image.stale for tag in image.tags]
    bases = [
        tag
        for image in client.images.list(name="aligntune-base")
        for tag in image.tags
        if _plain(tag).startswith("aligntune-base:") and _plain(tag) not in keep
    ]
    for tag in (*stale, *bases):
        _remove(client, tag, say)


def _remove(client: DockerClient, tag: str, say: Say) -> None:
    from docker.errors import APIError

    try:
        client.api.remove_image(tag)
        say(f"removed {tag}")
    except APIError as error:
        say(f"kept {tag}: {error.explanation or error}")


def _plain(tag: str) -> str:
    """A tag without the registry that podman puts before the name of what was built here."""
    return tag.removeprefix("localhost/")


def _row(image: Mapping[str, Any], ours: Mapping[tuple[str, str], Recipe]) -> Listed:
    labels = image.get("Labels") or {}
    backend, flavour = labels[contract.LABEL_BACKEND], labels.get(contract.LABEL_FLAVOUR, "")
    recipe_hash = labels.get(contract.LABEL_RECIPE, "")
    recipe = ours.get((backend, flavour))
    # Labels are inherited by what is derived, so only the tag tells what we built ourselves.
    alias = f"aligntune-{backend}:{flavour}"
    exact = f"{alias}-{recipe_hash[:12]}"
    tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
    own = sorted((tag for tag in tags if _plain(tag) in (alias, exact)), key=len)
    if exact not in map(_plain, own):
        own, state = [], "yours"
    elif recipe is None:
        state = "stale: its recipe is gone"
    elif recipe_hash == recipe.recipe_hash:
        state = "up to date"
    elif labels.get(contract.LABEL_LOCK) == recipe.lock_hash:
        state = "stale: its lock is current, other files changed"
    else:
        state = "stale: its lock changed"
    digests = [one for one in image.get("RepoDigests") or () if not one.startswith("<none>")]
    return Listed(
        ref=_plain(next(iter((*own[-1:], *tags)), str(image["Id"])[:19])),
        backend=backend,
        flavour=flavour,
        id=str(image["Id"]),
        digest=next(iter(digests), None),
        size=int(image["Size"]),
        versions=json.loads(labels.get(contract.LABEL_VERSIONS) or "{}"),
        state=state,
        tags=tuple(own),
    )


def _how(
    recipe: Recipe,
    image: str | None,
    pull: PullPolicy,
    find_links: Sequence[str],
    builder: Callable[[], str],
) -> tuple[How | None, str]:
    """How an image can be had; where it cannot, None and why."""
    if image is not None and pull != "always":
        return "present", ""
    if pull == "never":
        return None, f"{recipe.ref} is not here, and --pull never forbids to obtain it"
    if recipe.pin:
        return "pull", ""
    return _how_made(recipe, find_links, builder)


def _how_made(
    recipe: Recipe, find_links: Sequence[str], builder: Callable[[], str]
) -> tuple[How | None, str]:
    """How what a lock names can be put together here, into an image or a venv."""
    try:
        find_torch_wheel(recipe.lock, find_links, check=False)
    except ImageError as error:
        return None, str(error)
    lack = builder()
    return (None, lack) if lack else ("build", "")


def _inspect(client: DockerClient, ref: str) -> dict[str, Any] | None:
    from docker.errors import ImageNotFound

    try:
        return dict(client.images.get(ref).attrs)
    except ImageNotFound:
        return None


def _pull(client: DockerClient, recipe: Recipe, pin: str, say: Say) -> str:
    """Pull a published image and tag it as what the recipe asks for."""
    from docker.errors import APIError

    say(f"pulling {pin}")
    layers: dict[str, tuple[int, int]] = {}
    told = 0
    try:
        for event in client.api.pull(pin, stream=True, decode=True):
            if "error" in event:
                raise ImageError(f"{pin} cannot be pulled: {event['error']}")
            progress = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and progress.get("total"):
                layers[event["id"]] = (int(progress["current"]), int(progress["total"]))
                done, total = map(sum, zip(*layers.values(), strict=True))
                if 100 * done // total >= told + LAYERS_STEP:
                    told = 100 * done // total
                    say(f"{done / 1e9:.1f} of {total / 1e9:.1f} GB")
    except APIError as error:
        raise ImageError(f"{pin} cannot be pulled: {error.explanation or error}") from error
    image = _inspect(client, pin) or {"Config": {}}
    labels = image["Config"].get("Labels") or {}
    check_labels(pin, labels)
    if labels.get(contract.LABEL_RECIPE) != recipe.recipe_hash:
        raise ImageError(f"{pin} was made from another version of this recipe")
    for name in (recipe.ref, recipe.alias):
        client.images.get(pin).tag(name)
    return str(image["Id"])
