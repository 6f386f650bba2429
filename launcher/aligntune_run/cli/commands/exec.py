"""The ``exec`` command: run a program in a backend's environment."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click
from click.exceptions import Exit

from aligntune.algorithms import BACKENDS
from aligntune.spec.flags import WHERE
from aligntune_run.cli.console import agree
from aligntune_run.cli.options import FIND_LINKS, HELP_OPTION, YES
from aligntune_run.engines.registry import ENGINES


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.option(
    "--backend",
    type=click.Choice(sorted(BACKENDS)),
    default="trl",
    help="Backend whose environment to use. Default: trl.",
    panel=WHERE,
)
@click.option(
    "--engine",
    type=click.Choice(["auto", *ENGINES]),
    default="auto",
    help="Container engine, or a process in a venv.",
    panel=WHERE,
)
@click.option(
    "--gpus",
    type=click.Choice(["auto", "0"]),
    default="auto",
    help="auto uses a free GPU if there is one; 0 uses none.",
    panel=WHERE,
)
@click.option(
    "--mount",
    "folders",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Also mount this folder, writable; repeatable.",
    panel=WHERE,
)
@FIND_LINKS
@YES
@HELP_OPTION
@click.argument(
    "command", metavar="-- PROGRAM ARGS...", nargs=-1, required=True, type=click.UNPROCESSED
)
def execute(
    backend: str,
    engine: str,
    gpus: str,
    folders: tuple[Path, ...],
    find_links: tuple[str, ...],
    yes: bool,
    command: tuple[str, ...],
) -> None:
    """Run a program in a backend's environment, such as a script that loads your model.

    In a container, the program can write to the current directory and every --mount, at the same
    paths, and has no network. In a venv (--engine process), it has your files and your network,
    but no hub token from the environment.

    \b
    Examples:
    $ aligntune-run exec -- python script.py
    $ aligntune-run exec --backend unsloth --mount /data -- python script.py
    """
    from aligntune_run.cli.progress import obtaining
    from aligntune_run.planning.planner import Obtaining
    from aligntune_run.runs.exec import obtain

    how = Obtaining(find_links, agree if not yes else lambda question: True)
    with obtaining(sys.stderr) as say:
        environment = obtain(backend, engine, gpus, how, say)
    raise Exit(environment.run(command, folders))
