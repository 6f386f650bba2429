"""The ``aligntune-run`` command."""

import sys

from aligntune_run.cli import main

if __name__ == "__main__":
    sys.exit(main())
