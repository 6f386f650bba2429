"""The command that runs any program in a backend's environment: exec."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click
from click.exceptions import Exit

from aligntune_run.cli.console import agree


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.option("--backend", type=click.Choice(["trl", "unsloth"]), default="trl", help="Whose.")
@click.option("--engine", type=click.Choice(["auto", "docker", "process"]), default="auto")
@click.option("--gpus", type=click.Choice(["auto", "0"]), default="auto", help="0 gives it none.")
@click.option("--mount", "folders", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--find-links", multiple=True, help="Folder or page with wheels, for a first build.")
@click.option("--yes", is_flag=True, help="Obtain an image without asking.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    backend: str,
    engine: str,
    gpus: str,
    folders: tuple[Path, ...],
    find_links: tuple[str, ...],
    yes: bool,
    words: tuple[str, ...],
) -> None:
    """Run a program in a backend's environment: aligntune-run exec -- python script.py

    In a container it sees the current directory and every --mount, at their own path and writable,
    and has no network. In a venv (--engine process) it sees what you see, network included, but
    for the variables with a hub token.
    """
    from aligntune_run.cli.progress import obtaining
    from aligntune_run.planning.planner import Obtaining
    from aligntune_run.runs.exec import obtain, run_program

    how = Obtaining(find_links, agree if not yes else lambda question: True)
    with obtaining(sys.stderr) as say:
        environment = obtain(backend, engine, gpus, how, say)
    raise Exit(run_program(words, environment, folders))
