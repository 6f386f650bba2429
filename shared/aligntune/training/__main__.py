import sys

from aligntune.training.cli import main

sys.exit(main())
