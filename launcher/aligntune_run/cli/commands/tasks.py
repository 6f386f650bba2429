"""The commands for a finished run: evaluate, predict, push."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import rich_click as click

from aligntune_run.cli.console import agree, carry_out, outliving

if TYPE_CHECKING:
    from aligntune.record.schema import RunRecord
    from aligntune.tasks import Task

RUN = click.argument("run", type=click.Path(path_type=Path))


def everywhere(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that all of these have."""
    for option in reversed(
        (
            click.option("--engine", type=click.Choice(["auto", "docker", "process"])),
            click.option("--gpus", help="As for training; the run's own if left out."),
            click.option("--find-links", multiple=True, help="Folder or page with wheels."),
            click.option("--yes", is_flag=True, help="Obtain an image without asking."),
            click.option("--wait", is_flag=True, help="Wait for a GPU that another run has."),
            click.option("--dry-run", is_flag=True, help="Print the plan, change nothing."),
            click.option("--json", "as_json", is_flag=True, help="Print the record as JSON."),
        )
    ):
        command = option(command)
    return command


@click.command()
@RUN
@click.option("--dataset", help="Rows to evaluate on, instead of the run's own.")
@click.option("--split", help="Split of it.")
@click.option("--max-samples", type=int, help="The first so many rows.")
@click.option("--batch-size", type=int, help="Rows a forward.")
@everywhere
def evaluate(
    run: Path,
    dataset: str | None,
    split: str | None,
    max_samples: int | None,
    batch_size: int | None,
    **how: Any,
) -> None:
    """Measure what a run has trained: loss and perplexity, accuracy and margin, or reward and KL.

    On its own evaluation rows the figures are those of its record.
    """
    from aligntune.tasks import Evaluate, make
    from aligntune_run.cli import output

    task = make(
        Evaluate,
        of=str(run.absolute()),
        dataset=dataset,
        split=split,
        max_samples=max_samples,
        batch_size=batch_size,
    )
    _do(task, output.evaluation, **how)


@click.command()
@RUN
@click.argument("prompts", nargs=-1)
@click.option(
    "--prompts",
    "file",
    type=click.Path(path_type=Path),
    help="Further ones from a file: a text a line, or .jsonl with texts or lists of messages.",
)
@click.option("--max-new-tokens", type=int, help="Where a completion is cut; default 256.")
@click.option("--temperature", type=float, help="Sample; left out, the likeliest token is taken.")
@click.option("--seed", type=int, help="Of sampling.")
@click.option("--chat/--plain", default=None, help="Default: as the training data was.")
@everywhere
def predict(
    run: Path,
    prompts: tuple[str, ...],
    file: Path | None,
    max_new_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    chat: bool | None,
    **how: Any,
) -> None:
    """Ask what a run has trained, or have its reward model score texts.

    [dim]aligntune-run predict runs/... "What is two plus two?"[/dim]
    """
    from aligntune.tasks import Predict, make, read_prompts
    from aligntune_run.cli import output

    task = make(
        Predict,
        of=str(run.absolute()),
        prompts=[*prompts, *(read_prompts(file) if file else ())],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        chat=chat,
    )
    _do(task, output.predictions, quiet=True, **how)


@click.command()
@RUN
@click.argument("repository")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--message", help="Of the commit.")
@everywhere
def push(run: Path, repository: str, private: bool, message: str | None, **how: Any) -> None:
    """Upload a run's model to a hub, with the token that you are logged in with."""
    from aligntune.tasks import Push, make
    from aligntune_run.cli import output

    task = make(
        Push,
        of=str(run.absolute()),
        repository=repository,
        private=private or None,
        message=message,
    )
    _do(task, output.pushed, **how)


COMMANDS = (evaluate, predict, push)


def _do(
    task: Task,
    tell: Callable[[RunRecord, TextIO], None],
    *,
    engine: str | None,
    gpus: str | None,
    find_links: tuple[str, ...],
    yes: bool,
    wait: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool = False,
) -> None:
    """Do a task and tell its result; ``quiet`` leaves stdout to the result alone."""
    from aligntune_run.cli import output
    from aligntune_run.planning import tasks
    from aligntune_run.planning.planner import Obtaining

    obtaining = Obtaining(find_links, agree if not yes else lambda question: True, wait)
    prepared = tasks.prepare(task, obtaining, gpus=gpus, engine=engine)
    if dry_run:
        with outliving(sys.stdout):
            output.plan(prepared, as_json)
        return
    record = carry_out(prepared, sys.stderr if as_json or quiet else sys.stdout)
    with outliving(sys.stdout):
        if as_json:
            output.json_line(record.to_dict())
        else:
            tell(record, sys.stdout)
