"""The ``images`` commands: build, list and remove the pinned images."""

from __future__ import annotations

import sys

import rich_click as click

from aligntune_run.cli.console import outliving


@click.group("images")
def images_group() -> None:
    """Build, list and remove the pinned images.

    \b
    Examples:
    $ aligntune-run images build trl
    $ aligntune-run images list
    """


@images_group.command("build")
@click.argument("backend", type=click.Choice(["trl", "unsloth", "all"]), default="all")
@click.option(
    "--flavour", type=click.Choice(["cpu", "cuda"]), help="Flavour to build. Default: both."
)
@click.option(
    "--base", default="auto", metavar="IMAGE", help="Image to start from, or debootstrap."
)
@click.option("--find-links", multiple=True, metavar="PLACE", help="Folder or page with wheels.")
def build_images(backend: str, flavour: str | None, base: str, find_links: tuple[str, ...]) -> None:
    """Build images from their locks.

    \b
    Examples:
    $ aligntune-run images build
    $ aligntune-run images build trl --flavour cpu --find-links ./wheels
    """
    from aligntune_run import images
    from aligntune_run.host.docker_client import require_client

    client = require_client()
    for recipe in images.recipes():
        if backend in (recipe.backend, "all") and flavour in (recipe.flavour, None):
            click.echo(f"building {recipe.ref}")
            images.build(client, recipe, base=base, find_links=find_links, say=click.echo)


@images_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the images as JSON.")
def list_images(as_json: bool) -> None:
    """List the images, and whether their environment and code are up to date.

    \b
    Examples:
    $ aligntune-run images list
    $ aligntune-run images list --json
    """
    from aligntune_run import images
    from aligntune_run.cli import output
    from aligntune_run.host.docker_client import require_client

    found = images.list_images(require_client())
    with outliving(sys.stdout):
        output.images(found, as_json)


@images_group.command("prune")
def prune_images() -> None:
    """Remove images built from other versions of their recipes.

    \b
    Example:
    $ aligntune-run images prune
    """
    from aligntune_run import images
    from aligntune_run.host.docker_client import require_client

    images.prune(require_client(), click.echo)
