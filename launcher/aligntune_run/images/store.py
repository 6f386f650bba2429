"""Whether an engine has an image, and how to get one that is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aligntune import contract
from aligntune.algorithms import BACKENDS
from aligntune.errors import ImageError
from aligntune.units import gib
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
"""A pull reports progress each time this many more percent of the announced bytes have arrived."""


def present(client: DockerClient, ref: str) -> str | None:
    """The id of an image, or None if the engine does not have it."""
    image = inspect_image(client, ref)
    return str(image["Id"]) if image else None


@engine_errors()
def states(
    client: DockerClient | None, pull: PullPolicy = "missing", find_links: Sequence[str] = ()
) -> tuple[ImageState, ...]:
    """Every recipe's image, and how it can be obtained.

    Args:
        client: None if there is no engine. A venv is then made from the same lock, so only the
            wheels that no index has are looked for, and neither pins nor ``pull`` matter.
        pull: as in :func:`obtain`.
        find_links: folders or addresses with the wheels that no index has.

    Raises:
        EngineError: the engine stopped answering.
    """

    @cache
    def builder() -> str:
        """Why nothing can be built here; empty if builds work. Only run if an image is missing."""
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
                id=image if how == "present" else None,  # otherwise another image will run
                how=how,
                reason=reason,
            )
        )
    return tuple(found)


@engine_errors()
def derived_state(client: DockerClient, ref: str) -> ImageState:
    """The user's own image, which must be made from one of ours.

    Raises:
        ImageError: it is not here, not derived from ours, or of a contract that is not supported.
        EngineError: the engine stopped answering.
    """
    image = inspect_image(client, ref)
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
    """Raises ImageError if this launcher does not run images of this version of the contract."""
    theirs = labels.get(contract.LABEL_CONTRACT)
    if theirs is None:
        raise ImageError(
            f"{ref} is not made from an aligntune image: it has no label {contract.LABEL_CONTRACT}",
            "Derive it from one that `aligntune-run images list` shows",
        )
    oldest, newest = contract.OLDEST_CONTRACT, contract.CONTRACT_VERSION
    if theirs not in map(str, range(oldest, newest + 1)):
        raise ImageError(
            f"{ref} keeps version {theirs[:80]} of the contract between launcher and image; "
            f"this launcher runs versions {oldest} to {newest}",
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
    """The id of a recipe's image, which is pulled by its pinned digest or built if it is missing.

    An image that is here may hold an older copy of the code; :func:`build` renews it.

    Args:
        pull: ``missing`` obtains it only if it is not here, ``always`` in any case, ``never`` not.
        agree: called before gigabytes are fetched or written, with a question that tells the size.

    Raises:
        ImageError: it is unavailable, or the user did not agree.
        EngineError: the engine stopped answering.
    """
    image = present(client, recipe.ref)
    if image is not None and pull != "always":
        return image
    if pull == "never":
        raise ImageError(
            f"{recipe.ref} is not here, and --pull never forbids obtaining it",
            f"Run `aligntune-run images build {recipe.backend} --flavour {recipe.flavour}` first",
        )
    if not agree(f"{announcement(recipe)} Go on?"):
        raise ImageError(f"{recipe.ref} is not here, and you declined it", "Agree, or use --image")
    if recipe.pin:
        try:
            return _pull(client, recipe, recipe.pin, say)
        except ImageError as error:
            say(f"{error.what}; building it instead")
    return build(client, recipe, base=base, find_links=find_links, say=say)


def announcement(recipe: Recipe) -> str:
    """What obtaining an image costs in bytes, as a sentence."""
    how = "pulled" if recipe.pin else "built here"
    sizes = [
        f"{gib(size)} {what}"
        for size, what in (
            (recipe.download_size, "to download"),
            (recipe.expected_size, "on disk"),
        )
        if size
    ]
    return f"{recipe.ref} is {how}{': ' if sizes else ''}{', '.join(sizes)}."


def _how(
    recipe: Recipe,
    image: str | None,
    pull: PullPolicy,
    find_links: Sequence[str],
    builder: Callable[[], str],
) -> tuple[How | None, str]:
    """How an image can be obtained; None and the reason if it cannot."""
    if image is not None and pull != "always":
        return "present", ""
    if pull == "never":
        return None, f"{recipe.ref} is not here, and --pull never forbids obtaining it"
    if recipe.pin:
        return "pull", ""
    return _how_made(recipe, find_links, builder)


def _how_made(
    recipe: Recipe, find_links: Sequence[str], builder: Callable[[], str]
) -> tuple[How | None, str]:
    """How the packages of a lock can be installed here, into an image or a venv."""
    try:
        find_torch_wheel(recipe.lock, find_links, check=False)
    except ImageError as error:
        return None, str(error)
    lack = builder()
    return (None, lack) if lack else ("build", "")


def inspect_image(client: DockerClient, ref: str) -> dict[str, Any] | None:
    """What the engine knows of an image; None if it does not have it."""
    from docker.errors import ImageNotFound

    try:
        return dict(client.images.get(ref).attrs)
    except ImageNotFound:
        return None


NOT_PULLED = "Check the network and `docker login`, or build the image: aligntune-run images build"


def _pull(client: DockerClient, recipe: Recipe, pin: str, say: Say) -> str:
    """Pull a published image and give it the recipe's tags. Its copy of the code may be another."""
    from docker.errors import APIError

    say(f"pulling {pin}")
    layers: dict[str, tuple[int, int]] = {}
    reported = 0
    try:
        for event in client.api.pull(pin, stream=True, decode=True):
            if "error" in event:
                raise ImageError(f"cannot pull {pin}: {event['error']}", NOT_PULLED)
            progress = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and progress.get("total"):
                layers[event["id"]] = (int(progress["current"]), int(progress["total"]))
                done, total = map(sum, zip(*layers.values(), strict=True))
                if 100 * done // total >= reported + LAYERS_STEP:
                    reported = 100 * done // total
                    say(f"{gib(done)} of {gib(total)}")
    except APIError as error:
        raise ImageError(f"cannot pull {pin}: {error.explanation or error}", NOT_PULLED) from error
    image = inspect_image(client, pin) or {"Config": {}}
    labels = image["Config"].get("Labels") or {}
    check_labels(pin, labels)
    if labels.get(contract.LABEL_RECIPE) != recipe.recipe_hash:
        raise ImageError(
            f"{pin} has another environment than this version of aligntune-run uses",
            "Update aligntune-run, or build the image: aligntune-run images build",
        )
    for name in (recipe.ref, recipe.alias):
        client.images.get(pin).tag(name)
    return str(image["Id"])
