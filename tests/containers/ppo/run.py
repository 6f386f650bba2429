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
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Run the named checks, or all."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    modules = [path.stem for path in sorted(Path(__file__).parent.glob("*.py"))]
    found = {
        name: each
        for module in modules
        for name, each in vars(import_module(f"tests.containers.ppo.{module}")).items()
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
