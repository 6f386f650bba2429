"""The command line: arguments in, exit codes out. Commands do the heavy imports."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource
from click.exceptions import NoSuchOption

from aligntune import __version__
from aligntune.errors import AligntuneError, OutputError, SpecError, StoppedError
from aligntune.spec.flags import OUTPUT, WHAT
from aligntune_run.cli.commands import tasks
from aligntune_run.cli.commands.doctor import doctor
from aligntune_run.cli.commands.exec import execute
from aligntune_run.cli.commands.explain import explain
from aligntune_run.cli.commands.images import images_group
from aligntune_run.cli.commands.status import status
from aligntune_run.cli.console import agree, carry_out, outliving, silence
from aligntune_run.cli.options import (
    DRY_RUN,
    FIND_LINKS,
    FLAGS,
    HELP_OPTION,
    WAIT,
    YES,
    json_option,
    parameter,
    settings,
    spec_flags,
    suggest_option,
)

if TYPE_CHECKING:
    from aligntune_run.planning.planner import Prepared

PROGRAM = "aligntune-run"

READER_LEFT = 128 + signal.SIGPIPE
"""The exit code if the reader of our output left and the work was not done."""


HELP = {
    "text_markup": "ansi",
    "options_table_column_types": ["opt_all_metavar", "help"],
    "append_metavars_help_string": "{}",
    "delimiter_comma": ", ",
    "padding_helptext_first_line": (0, 0, 1, 0),
    "text_paragraph_linebreaks": "\n\n",
    "commands_before_options": True,
}
"""The layout of the help; subcommands inherit it. The decorator for it would import rich."""


@click.group(
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "rich_help_config": HELP,
    },
)
@click.command_panel("Look before you run", commands=["explain", "status", "doctor"])
@click.command_panel("Work with runs", commands=["evaluate", "predict", "push"])
@click.command_panel("Images and machine", commands=["images", "exec"])
@spec_flags
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Resume a stopped run from its newest checkpoint.",
    panel=WHAT,
)
@FIND_LINKS
@YES
@WAIT
@DRY_RUN
@json_option("the plan or the finished run's record")
@click.version_option(__version__, prog_name=PROGRAM, panel=OUTPUT)
@HELP_OPTION
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

    \b
    Examples:
    $ aligntune-run --algo sft --model Qwen/Qwen3-0.6B --dataset chats.jsonl
    $ aligntune-run --algo dpo --model runs/my-run --dataset pairs.jsonl
    $ aligntune-run -c spec.yaml --set training.epochs=1 --dry-run
    """
    given = _given(context)
    if (command := context.invoked_subcommand) is not None:
        if given:
            raise click.UsageError(
                f"{', '.join(given)} before {command!r} has no effect; put a command's options "
                f"after it. {PROGRAM} {command} --help lists them"
            )
        return
    if not given and not _environment_asks():
        click.echo(context.get_help())
        return
    from aligntune_run.cli import output
    from aligntune_run.planning.planner import Obtaining
    from aligntune_run.planning.prepare import prepare, prepare_resume

    obtaining = Obtaining(find_links, agree if not yes else lambda question: True, wait)
    if resume is not None:
        keys = [one.flag.name for one in FLAGS if flags[parameter(one.flag)] not in (None, ())]
        if config or assignments or keys:
            raise click.UsageError("--resume uses the run's own spec; leave other keys out")
        prepared = prepare_resume(resume, obtaining)
    else:
        prepared = prepare(settings(config, flags, assignments), obtaining)
    if dry_run:
        with outliving(sys.stdout):
            output.plan(prepared, as_json)
        return
    _train(prepared, as_json)


def _given(context: click.RichContext) -> list[str]:
    """The long names of the options on the command line."""
    return [
        option.opts[-1]
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]


def _environment_asks() -> bool:
    """Whether an environment variable sets a key of the spec."""
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
    """Run the command; an expected error is one message and its exit code, never a traceback."""
    try:
        left = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except AligntuneError as error:
        label = "stopped" if isinstance(error, StoppedError) else "error"
        return _end(f"{label}: {error}", error.exit_code)
    except click.Abort:
        return _end("aborted", 130)
    except NoSuchOption as error:
        problem = _no_such_option(error)
        return _end(f"error: {problem}", problem.exit_code)
    except click.ClickException as error:
        problem = SpecError(error.format_message().rstrip("."), f"See {PROGRAM} --help")
        return _end(f"error: {problem}", problem.exit_code)
    except KeyboardInterrupt:
        return _end("interrupted", 130)
    except (BrokenPipeError, SystemExit):  # click and rich turn one into the other
        for stream in (sys.stdout, sys.stderr):
            silence(stream)
        return READER_LEFT
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        silence(sys.stdout)
        full = OutputError("no space left for the output", "Free some space, or print elsewhere")
        return _end(f"error: {full}", full.exit_code)
    return left if isinstance(left, int) else 0  # the code of an Exit, from --help and exec


def _no_such_option(error: NoSuchOption) -> SpecError:
    from aligntune.spec.suggest import nearest

    where = error.ctx or click.Context(cli, info_name=PROGRAM)
    options = where.command.params
    if any(option.name == "assignments" for option in options):  # it takes every key of a spec
        suggestion = suggest_option(error.option_name)
    else:
        names = [name for option in options for name in option.opts if name.startswith("--")]
        suggestion = nearest(error.option_name, names)
    help_command = f"See {where.command_path} --help"
    return SpecError(
        f"no such option: {error.option_name}{suggestion}", "" if suggestion else help_command
    )


def _end(message: str, code: int) -> int:
    with outliving(sys.stderr, OSError):
        click.echo(message, err=True)
    return code
