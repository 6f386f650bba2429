"""Load the rewards of a run."""

from __future__ import annotations

from pathlib import Path

from aligntune.data.rows import Rows
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.rewards import Reward, build, check_rows, require_columns
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.worker.device import Device
from aligntune.worker.failures import tell
from aligntune.worker.inputs.fetch import at, fetched
from aligntune.worker.inputs.model import locate
from aligntune.worker.text.tokenize import is_chat


def reward_folder(name: str, revision: str | None, run: RunDir) -> Path:
    """The folder of a reward model here."""
    if is_local(name):
        return locate(name)
    return Path(fetched(run)["rewards"][at(name, revision)]["path"])


def load_rewards(
    spec: RunSpec, run: RunDir, events: EventWriter, device: Device, *parts: Rows
) -> tuple[Reward, ...]:
    """The reward functions of a request, guarded.

    Raises:
        DataError: a reward reads a column that the data does not have, or a reference that it does
            not understand.
    """
    for rows in parts:
        require_columns(spec.rewards, rows.dataset.column_names, rows.source)
        check_rows(spec.rewards, rows.dataset, rows.source)

    return tuple(
        build(
            spec.rewards,
            locate,
            "cuda" if device.cuda else "cpu",
            find_model=lambda reward: reward_folder(str(reward.model), reward.revision, run),
            chat=is_chat(parts[0].dataset),
            tell=lambda error: tell(error, run, events),
        )
    )
