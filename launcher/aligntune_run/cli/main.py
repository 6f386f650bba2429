"""The command line: words in, exit codes out. Heavy imports are in the commands."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource

from aligntune import __version__
from aligntune.errors import AligntuneError, OutputError, SpecError, StoppedError
from aligntune_run.cli.commands import tasks
from aligntune_run.cli.commands.doctor import doctor
from aligntune_run.cli.commands.exec import execute
from aligntune_run.cli.commands.explain import explain
from aligntune_run.cli.commands.images import images_group
from aligntune_run.cli.commands.status import status
from aligntune_run.cli.console import agree, carry_out, outliving, silence
from aligntune_run.cli.options import FLAGS, settings, spec_flags

if TYPE_CHECKING:
    from aligntune_run.planning.planner import Prepared

PROGRAM = "aligntune-run"

READER_LEFT = 128 + signal.SIGPIPE
"""The exit code where nobody reads our output any more and so the work was left undone."""


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@spec_flags
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
    from aligntune_run.cli import output
    from aligntune_run.planning.planner import Obtaining
    from aligntune_run.planning.prepare import prepare, prepare_resume

    obtaining = Obtaining(find_links, agree if not yes else lambda question: True, wait)
    if resume is not None:
        given = [flag.name for flag in FLAGS if flags[flag.parameter] not in (None, ())]
        if config or assignments or given:
            raise click.UsageError("--resume goes on with the run's own spec; leave other keys out")
        prepared = prepare_resume(resume, obtaining)
    else:
        prepared = prepare(settings(config, flags, assignments), obtaining)
    if dry_run:
        with outliving(sys.stdout):
            output.plan(prepared, as_json)
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
    from aligntune.spec.layers import from_environment

    return any(True for _ in from_environment(os.environ))


def _train(prepared: Prepared, as_json: bool) -> None:
    from aligntune_run.cli import output

    stream = sys.stderr if as_json else sys.stdout
    record = carry_out(prepared, stream)
    with outliving(sys.stdout):
        if as_json:
            output.json_line(record.to_dict())
        else:
            output.summary(record, stream)


for command in (execute, explain, status, doctor, *tasks.COMMANDS, images_group):
    cli.add_command(command)


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
