"""The commands that use a finished run: evaluate, predict, push."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import rich_click as click

from aligntune.spec.flags import WHERE
from aligntune_run.cli.console import agree, carry_out, outliving
from aligntune_run.cli.options import (
    DRY_RUN,
    FIND_LINKS,
    HELP_OPTION,
    WAIT,
    YES,
    json_option,
)
from aligntune_run.engines.registry import ENGINES

if TYPE_CHECKING:
    from aligntune.record.schema import RunRecord
    from aligntune.tasks import Task

RUN = click.argument("run", type=click.Path(path_type=Path))


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all of these commands have."""
    for option in reversed(
        (
            click.option(
                "--engine",
                type=click.Choice(["auto", *ENGINES]),
                help="Default: the run's own.",
                panel=WHERE,
            ),
            click.option("--gpus", help="As for training. Default: the run's own.", panel=WHERE),
            FIND_LINKS,
            YES,
            WAIT,
            DRY_RUN,
            json_option("the plan or the record"),
            HELP_OPTION,
        )
    ):
        command = option(command)
    return command


@click.command()
@RUN
@click.option(
    "--dataset",
    help="Evaluate on these rows. Default: the run's evaluation data.",
    panel="Evaluation",
)
@click.option("--split", help="Split of the dataset.", panel="Evaluation")
@click.option(
    "--max-samples", type=int, metavar="N", help="Use only the first N rows.", panel="Evaluation"
)
@click.option(
    "--batch-size", type=int, metavar="N", help="Rows per forward pass.", panel="Evaluation"
)
@task_options
def evaluate(
    run: Path,
    dataset: str | None,
    split: str | None,
    max_samples: int | None,
    batch_size: int | None,
    **how: Any,
) -> None:
    """Evaluate a run's model: loss and perplexity, accuracy and margin, or reward and KL.

    On the run's own evaluation data, the results equal those in its record.

    \b
    Examples:
    $ aligntune-run evaluate runs/my-run
    $ aligntune-run evaluate runs/my-run --dataset test.jsonl --max-samples 100
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
    _run_task(task, output.evaluation, **how)


@click.command()
@RUN
@click.argument("prompts", nargs=-1)
@click.option(
    "--prompts",
    "file",
    type=click.Path(path_type=Path),
    help="Read more prompts from a file: one per line, or .jsonl of texts or message lists.",
    panel="Generation",
)
@click.option(
    "--max-new-tokens",
    type=int,
    metavar="N",
    help="Maximum tokens per completion. Default: 256.",
    panel="Generation",
)
@click.option(
    "--temperature",
    type=float,
    metavar="X",
    help="Sample at this temperature. Default: greedy decoding.",
    panel="Generation",
)
@click.option("--seed", type=int, metavar="N", help="Random seed for sampling.", panel="Generation")
@click.option(
    "--chat/--plain",
    default=None,
    help="Use the chat template or not. Default: as in training.",
    panel="Generation",
)
@task_options
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
    """Generate answers with a run's model, or score texts with its reward model.

    \b
    Examples:
    $ aligntune-run predict runs/my-run "What is two plus two?"
    $ aligntune-run predict runs/my-run --prompts questions.txt --temperature 0.7
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
    _run_task(task, output.predictions, quiet=True, **how)


@click.command()
@RUN
@click.argument("repository")
@click.option("--private", is_flag=True, help="Create the repository as private.", panel="Upload")
@click.option("--message", help="Commit message.", panel="Upload")
@task_options
def push(run: Path, repository: str, private: bool, message: str | None, **how: Any) -> None:
    """Upload a run's model to the Hugging Face hub, with your token.

    \b
    Examples:
    $ aligntune-run push runs/my-run organisation/name
    $ aligntune-run push runs/my-run organisation/name --private
    """
    from aligntune.tasks import Push, make
    from aligntune_run.cli import output

    task = make(
        Push,
        of=str(run.absolute()),
        repository=repository,
        private=private or None,
        message=message,
    )
    _run_task(task, output.pushed, **how)


COMMANDS = (evaluate, predict, push)


def _run_task(
    task: Task,
    show: Callable[[RunRecord, TextIO], None],
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
    """Run a task and print its result; with ``quiet``, stdout has nothing but the result."""
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
            show(record, sys.stdout)
