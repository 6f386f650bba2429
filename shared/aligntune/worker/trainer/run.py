"""Run the trainer, and turn whatever it raises into one line."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, TrainingError
from aligntune.failures import first_line, foreseen
from aligntune.worker.trainer.callback import NothingLeft


def run_trainer(trainer: Any, checkpoint: str | None) -> None:
    """Train to the last step, from ``checkpoint`` if there is one.

    Raises:
        AligntuneError: the trainer failed; an error that nobody foresaw has its traceback in the
            log.
    """
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except NothingLeft:  # the run died after its last step, and its last weights are loaded
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            trainer._load_best_model()
    except AligntuneError:
        raise
    except Exception as error:
        known = foreseen(error)
        if known is None:
            traceback.print_exc()
            remedy = "See the traceback at the end of train.log"
            if checkpoint:
                remedy += (
                    f". If {Path(checkpoint).name} is damaged, delete it and run --resume again"
                )
            known = TrainingError(
                f"the trainer failed: {type(error).__name__}: {first_line(error)}", remedy
            )
        raise known from error
