"""Checks of PPO, for the inside of an image, where there is no pytest.

    python run.py [NAME ...]

prints ``{"check", "error", "seconds"}`` of each function that is named ``check_...``, one JSON
object a line; each tells for itself, so the exit code is 0. Nothing of ours is used on the other
side of a comparison.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from pathlib import Path


def main() -> None:
    """Run the named checks, or all."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    import torch
    from tests.containers.ppo import mathematics, models, training

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = {
        name: each
        for module in (mathematics, models, training)
        for name, each in vars(module).items()
        if name.startswith("check_")
    }
    for name in sys.argv[1:] or found:
        began, error = time.monotonic(), None
        try:
            found[name]()
        except Exception:
            error = traceback.format_exc()
        seconds = round(time.monotonic() - began, 2)
        print(json.dumps({"check": name, "error": error, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
