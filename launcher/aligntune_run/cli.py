"""The command line: words in, exit codes out. Heavy imports are in the commands."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource
from click.exceptions import Exit

from aligntune import __version__
from aligntune.algorithms import ALGORITHMS
from aligntune.errors import AligntuneError, OutputError, SpecError, StoppedError
from aligntune_run import afterwards
from aligntune_run.doctor.command import doctor
from aligntune_run.terminal import agree, carry_out, outliving, silence

if TYPE_CHECKING:
    from aligntune.settings import Settings
    from aligntune_run.run import Prepared

PROGRAM = "aligntune-run"

READER_LEFT = 128 + signal.SIGPIPE
"""The exit code where nobody reads our output any more and so the work was left undone."""


@dataclass(frozen=True)
class Flag:
    """A key of the RunSpec that has a flag of its own; every other key is reached by ``--set``."""

    name: str
    key: str
    help: str
    type: Any = str
    value: Any = None
    """What a flag without an argument sets."""
    metavar: str | None = None
    many: bool = False
    """Whether it may stand several times, which makes a list."""


FLAGS = (
    Flag(
        "--algo",
        "algorithm",
        f"How to train: {', '.join(ALGORITHMS)}.",
        click.Choice(list(ALGORITHMS)),
        metavar="NAME",
    ),
    Flag("--model", "model", "Local folder or hub id of the model."),
    Flag("--dataset", "dataset", "File, folder or hub id of the data."),
    Flag(
        "--backend",
        "backend",
        "auto takes the fastest that runs here.",
        click.Choice(["auto", "trl", "unsloth"]),
    ),
    Flag("--output", "output", "Run directory; a new one below runs/ if left out.", click.Path()),
    Flag("--epochs", "training.epochs", "Passes over the data.", float),
    Flag("--max-steps", "training.max_steps", "Optimizer steps, instead of epochs.", int),
    Flag("--batch-size", "training.batch_size", "Sequences a device and step.", int),
    Flag("--lr", "training.learning_rate", "Peak learning rate.", float),
    Flag("--max-length", "training.max_length", "Tokens a sequence is cut to.", int),
    Flag("--lora-rank", "adapter.rank", "Train a LoRA adapter of this rank.", int),
    Flag(
        "--load-in-4bit", "model.quantization", "Hold the weights in 4 bits (QLoRA).", value="4bit"
    ),
    Flag(
        "--reward",
        "rewards",
        "For RL: a built-in reward, or path.py:function; NAME=WEIGHT, several times.",
        many=True,
    ),
    Flag("--reward-model", "rewards", "For RL: a reward model, folder or hub id.", many=True),
    Flag("--num-generations", "rl.num_generations", "For GRPO: completions a prompt.", int),
    Flag("--max-completion-length", "rl.max_completion_length", "For RL: tokens.", int),
    Flag("--seed", "training.seed", "Of every random choice.", int),
    Flag("--engine", "engine", "Where it runs.", click.Choice(["auto", "docker", "process"])),
    Flag(
        "--gpus",
        "gpus",
        "auto, all, a number of GPUs (0 is the CPU), or UUIDs; more than one is refused so far.",
    ),
    Flag("--image", "image", "Run this derived image instead of the pinned one."),
    Flag(
        "--pull",
        "pull",
        "When to obtain the image.",
        click.Choice(["missing", "never", "always"]),
    ),
    Flag("--strict", "strict", "A backend that cannot be had is an error.", value=True),
)


def spec_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command every flag of :data:`FLAGS`."""
    for flag in reversed(FLAGS):
        name = flag.name.removeprefix("--").replace("-", "_")
        if flag.value is None:
            option = click.option(
                flag.name,
                name,
                type=flag.type,
                default=None,
                help=flag.help,
                metavar=flag.metavar,
                multiple=flag.many,
            )
        else:
            option = click.option(
                flag.name,
                name,
                flag_value=flag.value,
                type=type(flag.value),
                default=None,
                is_flag=True,
                help=flag.help,
            )
        command = option(command)
    return command


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@spec_flags
@click.option("-c", "--config", multiple=True, type=click.Path(path_type=Path), help="YAML spec.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any key of the spec."
)
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with a stopped run.")
@click.option("--find-links", multiple=True, help="Folder or page with wheels, for a first build.")
@click.option("--yes", is_flag=True, help="Obtain an image without asking.")
@click.option("--wait", is_flag=True, help="Wait for a GPU that another run has.")
@click.option("--dry-run", is_flag=True, help="Print the plan, change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def cli(
    context: click.RichContext,
    /,
    config: tuple[Path, ...],
    assignments: tuple[str, ...],
    resume: Path | None,
    find_links: tuple[str, ...],
    yes: bool,
    wait: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Post-train a language model with the fastest stack this machine can run.

    [dim]aligntune-run --algo sft --model M --dataset D[/dim]
    """
    words = _given(context)
    if (command := context.invoked_subcommand) is not None:
        if words:
            raise click.UsageError(
                f"{', '.join(words)} before {command!r} would not be heeded; options of a command "
                f"stand after it, and {PROGRAM} {command} --help shows which it has"
            )
        return
    if not words and not _environment_asks():
        click.echo(context.get_help())
        return
    from aligntune_run import report, run

    obtaining = run.Obtaining(find_links, agree if not yes else lambda question: True, wait)
    if resume is not None:
        given = [flag.name for flag in FLAGS if flags[_name(flag)] not in (None, ())]
        if config or assignments or given:
            raise click.UsageError("--resume goes on with the run's own spec; leave other keys out")
        prepared = run.prepare_resume(resume, obtaining)
    else:
        prepared = run.prepare(settings(config, flags, assignments), obtaining)
    if dry_run:
        with outliving(sys.stdout):
            report.plan(prepared, as_json)
        return
    _train(prepared, as_json)


def _given(context: click.RichContext) -> list[str]:
    """The options that stand on the command line, by their long names."""
    return [
        option.opts[-1]
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]


def _environment_asks() -> bool:
    """Whether a variable of the environment sets a key of the spec."""
    from aligntune.settings import from_environment

    return any(True for _ in from_environment(os.environ))


def _train(prepared: Prepared, as_json: bool) -> None:
    from aligntune_run import report

    stream = sys.stderr if as_json else sys.stdout
    record = carry_out(prepared, stream)
    with outliving(sys.stdout):
        if as_json:
            report.json_line(record)
        else:
            report.summary(record, stream)


def settings(
    config: tuple[Path, ...], flags: dict[str, Any], assignments: tuple[str, ...]
) -> Settings:
    """Lay default, files, environment and command line over each other, in this order."""
    from aligntune.settings import (
        Layer,
        from_assignment,
        from_environment,
        from_file,
        nested,
        resolve,
    )

    layers = [from_file(path) for path in config]
    layers += from_environment(os.environ)
    rewards: list[Any] = []
    for flag in FLAGS:
        value = flags[_name(flag)]
        if flag.key == "rewards":
            rewards += [_reward(flag.name, word) for word in value or ()]
        elif value is not None:
            layers.append(Layer(flag.name, nested(flag.key, value)))
    if rewards:
        layers.append(Layer("--reward", {"rewards": rewards}))
    layers += map(from_assignment, assignments)
    return resolve(layers, Path.cwd())


def _reward(flag: str, word: str) -> dict[str, Any]:
    """``NAME`` or ``NAME=WEIGHT`` as a reward."""
    name, equals, weight = word.rpartition("=")
    value: dict[str, Any] = {"model" if flag == "--reward-model" else "name": name or word}
    if equals:
        try:
            value["weight"] = float(weight)
        except ValueError:
            raise SpecError(f"{flag} {word}: {weight!r} is no weight", "Use NAME=WEIGHT") from None
    return value


def _name(flag: Flag) -> str:
    return flag.name.removeprefix("--").replace("-", "_")


@cli.command("exec", context_settings={"ignore_unknown_options": True})
@click.option("--backend", type=click.Choice(["trl", "unsloth"]), default="trl", help="Whose.")
@click.option("--engine", type=click.Choice(["auto", "docker", "process"]), default="auto")
@click.option("--mount", "folders", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--find-links", multiple=True, help="Folder or page with wheels, for a first build.")
@click.option("--yes", is_flag=True, help="Obtain an image without asking.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    backend: str,
    engine: str,
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
    from aligntune_run.environment import obtain, run_program
    from aligntune_run.progress import obtaining
    from aligntune_run.run import Obtaining

    how = Obtaining(find_links, agree if not yes else lambda question: True)
    with obtaining(sys.stderr) as say:
        environment = obtain(backend, engine, how, say)
    raise Exit(run_program(words, environment, folders))


for command in (*afterwards.COMMANDS, doctor):
    cli.add_command(command)


@cli.group("images")
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
    from aligntune_run.engines.connect import require_client

    client = require_client()
    for recipe in images.recipes():
        if backend in (recipe.backend, "all") and flavour in (recipe.flavour, None):
            click.echo(f"building {recipe.ref}")
            images.build(client, recipe, base=base, find_links=find_links, say=click.echo)


@images_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_images(as_json: bool) -> None:
    """Images, their sizes and versions, and whether they are up to date with their locks."""
    from aligntune_run import images, report
    from aligntune_run.engines.connect import require_client

    found = images.list_images(require_client())
    with outliving(sys.stdout):
        report.images(found, as_json)


@images_group.command("prune")
def prune_images() -> None:
    """Remove images that were made from other versions of their recipes."""
    from aligntune_run import images
    from aligntune_run.engines.connect import require_client

    images.prune(require_client(), click.echo)


def main() -> int:
    """Run the command; a foreseen error is one message and its exit code, never a traceback."""
    try:
        left = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except AligntuneError as error:
        word = "stopped" if isinstance(error, StoppedError) else "error"
        return _end(f"{word}: {error}", error.exit_code)
    except click.Abort:
        return _end("aborted", 130)
    except click.ClickException as error:
        problem = SpecError(error.format_message().rstrip("."), f"See {PROGRAM} --help")
        return _end(f"error: {problem}", problem.exit_code)
    except KeyboardInterrupt:
        return _end("interrupted", 130)
    except (BrokenPipeError, SystemExit):  # click and rich make the one into the other
        for stream in (sys.stdout, sys.stderr):
            silence(stream)
        return READER_LEFT
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        silence(sys.stdout)
        full = OutputError("no space left for what is printed", "Free some, or print elsewhere")
        return _end(f"error: {full}", full.exit_code)
    return left if isinstance(left, int) else 0  # an Exit's code, as from --help and exec


def _end(message: str, code: int) -> int:
    with outliving(sys.stderr, OSError):
        click.echo(message, err=True)
    return code
