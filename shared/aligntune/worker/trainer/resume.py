"""Where a resumed run starts."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress

from aligntune.record.run_dir import RunDir


def newest_checkpoint(run: RunDir) -> str | None:
    """The newest complete checkpoint in the run directory, if there is one.

    The trainer writes its state last. A checkpoint without a readable state is incomplete and is
    deleted.
    """
    names = (path.name for path in run.checkpoints.glob("checkpoint-*"))
    steps = [int(name.split("-")[1]) for name in names if re.fullmatch(r"checkpoint-\d+", name)]
    for step in sorted(steps, reverse=True):
        path = run.checkpoints / f"checkpoint-{step}"
        with suppress(OSError, ValueError):
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path)
        shutil.rmtree(path)
    return None
