"""The ``aligntune-run`` command."""

import os
import sys
from pathlib import Path

from aligntune_run.cli.import_guard import name_conflict
from aligntune_run.cli.stdio import prepare_streams


def main() -> int:
    """Run the command, unless another distribution owns its packages."""
    prepare_streams()
    if conflict := name_conflict():
        print(f"error: {conflict}", file=sys.stderr)
        return 1
    try:
        os.getcwd()
    except FileNotFoundError:
        from aligntune.errors import OutputError

        removed = OutputError("the current directory was removed", "Change to another directory")
        print(f"error: {removed}", file=sys.stderr)
        return removed.exit_code
    _set_click_version()
    from aligntune_run.cli.main import main as command

    return command()


def _set_click_version() -> None:
    """Set ``click.__version__`` from the name of click's metadata folder.

    rich-click reads it on every start. Without this, click imports ``importlib.metadata`` to find
    it, which takes a sixth of the time of ``--help``.
    """
    import click

    folder = Path(click.__file__).parents[1]
    names = [path.name for path in folder.glob("click-*.dist-info")]
    if len(names) == 1:
        vars(click)["__version__"] = names[0].removeprefix("click-").removesuffix(".dist-info")


if __name__ == "__main__":
    sys.exit(main())
