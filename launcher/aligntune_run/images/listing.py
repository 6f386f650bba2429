"""Which of our images an engine has and whether they are up to date; removing stale ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligntune import contract
from aligntune_run.host.docker_client import engine_errors
from aligntune_run.images.recipes import Recipe, recipes
from aligntune_run.images.store import inspect_image
from aligntune_run.subprocesses import Say

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class Listed:
    """One row of ``images list``.

    Attributes:
        id: the engine's id of the image; None for a recipe that has no image.
        digest: where it was pulled from, by digest; None for one built here.
        size: bytes, layers shared with other images included.
        state: of the environment: ``up to date``, ``stale: ...``, ``missing``, or ``yours`` for an
            image that the launcher did not build: one derived from ours, or built by compose.
        code: whether the image's own copy of the code is ``up to date`` or ``differs``; empty if
            the environment is not up to date. Runs of the launcher do not use the copy.
        names: what is ours to remove: tags, the one with the recipe's hash last, or the id of an
            image that has lost its tags to a build with newer code.
    """

    ref: str
    backend: str
    flavour: str
    id: str | None
    digest: str | None
    size: int | None
    versions: dict[str, str]
    state: str
    code: str = ""
    names: tuple[str, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether a newer build takes its place."""
        return self.state.startswith("stale")


@engine_errors()
def list_images(client: DockerClient) -> tuple[Listed, ...]:
    """Every image of our recipes that the engine has, then the recipes that have none.

    Raises:
        EngineError: the engine stopped answering.
    """
    ours = {(recipe.backend, recipe.flavour): recipe for recipe in recipes()}
    images = client.api.images(filters={"label": contract.LABEL_BACKEND})
    rows = [_row(client, image, ours) for image in images]
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
    """Remove our stale images.

    Nothing is removed by force: an image with a tag of the user's and one that others are derived
    from keep their layers, and one that a container uses stays and is named.

    Raises:
        EngineError: the engine stopped answering.
    """
    keep = {recipe.base_ref for recipe in recipes()}
    stale = [name for image in list_images(client) if image.stale for name in image.names]
    bases = [
        tag
        for image in client.images.list(name="aligntune-base")
        for tag in image.tags
        if _plain(tag).startswith("aligntune-base:") and _plain(tag) not in keep
    ]
    for name in (*stale, *bases):
        _remove(client, name, say)


def _remove(client: DockerClient, name: str, say: Say) -> None:
    from docker.errors import APIError

    try:
        client.api.remove_image(name)
        say(f"removed {name}")
    except APIError as error:
        say(f"kept {name}: {error.explanation or error}")


def _plain(tag: str) -> str:
    """A tag without the registry that podman puts before the names of local builds."""
    return tag.removeprefix("localhost/")


def _row(
    client: DockerClient, image: Mapping[str, Any], ours: Mapping[tuple[str, str], Recipe]
) -> Listed:
    labels = image.get("Labels") or {}
    backend, flavour = labels[contract.LABEL_BACKEND], labels.get(contract.LABEL_FLAVOUR, "")
    recipe_hash = labels.get(contract.LABEL_RECIPE, "")
    recipe = ours.get((backend, flavour))
    # A derived image inherits all labels, so only the tag shows that we built it.
    alias = f"aligntune-{backend}:{flavour}"
    exact = f"{alias}-{recipe_hash[:12]}"
    tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
    own = sorted((tag for tag in tags if _plain(tag) in (alias, exact)), key=len)
    digests = [one for one in image.get("RepoDigests") or () if not one.startswith("<none>")]
    code = ""
    if not (tags or digests) and _had_tag(client, str(image["Id"]), exact):
        own, state = [str(image["Id"])], "stale: a build with newer code has its tag"
    elif exact not in map(_plain, own):
        own, state = [], "yours"
    elif recipe is None:
        state = "stale: its recipe is gone"
    elif recipe_hash == recipe.recipe_hash:
        state = "up to date"
        same = labels.get(contract.LABEL_CODE) == recipe.code_hash
        code = "up to date" if same else "differs"
    elif labels.get(contract.LABEL_LOCK) == recipe.lock_hash:
        state = "stale: its lock is current, the Dockerfile or the base changed"
    else:
        state = "stale: its lock changed"
    return Listed(
        ref=_plain((own[-1:] or tags)[0]) if tags else str(image["Id"])[:19],
        backend=backend,
        flavour=flavour,
        id=str(image["Id"]),
        digest=next(iter(digests), None),
        size=int(image["Size"]),
        versions=json.loads(labels.get(contract.LABEL_VERSIONS) or "{}"),
        state=state,
        code=code,
        names=tuple(own),
    )


def _had_tag(client: DockerClient, image: str, tag: str) -> bool:
    """Whether an image without tags is an earlier build of ``tag``: only its code differs."""
    old, new = inspect_image(client, image), inspect_image(client, tag)
    if not (old and new and old.get("RootFS")):
        return False
    return _without_code(old) == _without_code(new)


def _without_code(image: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an image consists of except for the code, which is its last layer and one label."""
    config = image["Config"]
    labels = {**(config.get("Labels") or {}), contract.LABEL_CODE: ""}
    rest = [config.get(name) for name in ("Env", "Entrypoint", "Cmd", "WorkingDir", "User")]
    return image["RootFS"]["Layers"][:-1], labels, rest
