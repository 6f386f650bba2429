"""The ``aligntune-run`` command."""

import os
import sys
from pathlib import Path

from aligntune_run.cli.import_guard import name_conflict
from aligntune_run.cli.stdio import mend_streams


def main() -> int:
    """Run the command, if the packages it imports are its own."""
    mend_streams()
    if conflict := name_conflict():
        print(f"error: {conflict}", file=sys.stderr)
        return 1
    try:
        os.getcwd()
    except FileNotFoundError:
        from aligntune.errors import OutputError

        gone = OutputError("the current directory has been removed", "Go to one that is there")
        print(f"error: {gone}", file=sys.stderr)
        return gone.exit_code
    _tell_click_its_version()
    from aligntune_run.cli.main import main as command

    return command()


def _tell_click_its_version() -> None:
    """Set ``click.__version__`` from the name of click's own folder of metadata.

    rich-click asks for it on every start, and click, left to itself, then imports
    ``importlib.metadata`` to find it, which is a sixth of what ``--help`` takes.
    """
    import click

    place = Path(click.__file__).parents[1]
    names = [path.name for path in place.glob("click-*.dist-info")]
    if len(names) == 1:
        vars(click)["__version__"] = names[0].removeprefix("click-").removesuffix(".dist-info")


if __name__ == "__main__":
    sys.exit(main())
