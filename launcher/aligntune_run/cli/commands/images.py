"""The commands that build and list the pinned images."""

from __future__ import annotations

import sys

import rich_click as click

from aligntune_run.cli.console import outliving


@click.group("images")
def images_group() -> None:
    """Build and list the pinned images."""


@images_group.command("build")
@click.argument("backend", type=click.Choice(["trl", "unsloth", "all"]), default="all")
@click.option("--flavour", type=click.Choice(["cpu", "cuda"]), help="Default: every flavour.")
@click.option("--base", default="auto", help="Image to start from, or debootstrap.")
@click.option("--find-links", multiple=True, help="Folder or page with wheels.")
def build_images(backend: str, flavour: str | None, base: str, find_links: tuple[str, ...]) -> None:
    """Build images from their locks."""
    from aligntune_run import images
    from aligntune_run.host.docker_client import require_client

    client = require_client()
    for recipe in images.recipes():
        if backend in (recipe.backend, "all") and flavour in (recipe.flavour, None):
            click.echo(f"building {recipe.ref}")
            images.build(client, recipe, base=base, find_links=find_links, say=click.echo)


@images_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_images(as_json: bool) -> None:
    """Images, their sizes and versions, and whether environment and code are up to date."""
    from aligntune_run import images
    from aligntune_run.cli import output
    from aligntune_run.host.docker_client import require_client

    found = images.list_images(require_client())
    with outliving(sys.stdout):
        output.images(found, as_json)


@images_group.command("prune")
def prune_images() -> None:
    """Remove images that were made from other versions of their recipes."""
    from aligntune_run import images
    from aligntune_run.host.docker_client import require_client

    images.prune(require_client(), click.echo)
