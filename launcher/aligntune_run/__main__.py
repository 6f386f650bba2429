"""The ``aligntune-run`` command."""

import sys

from aligntune_run.ownership import name_conflict


def main() -> int:
    """Run the command, if the packages it imports are its own."""
    if conflict := name_conflict():
        print(f"error: {conflict}", file=sys.stderr)
        return 1
    from aligntune_run.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
