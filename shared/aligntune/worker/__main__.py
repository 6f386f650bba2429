import sys

from aligntune.worker.main import main

sys.exit(main())
