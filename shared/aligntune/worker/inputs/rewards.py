"""Load the rewards of a run."""

from __future__ import annotations

from pathlib import Path

from aligntune.data.rows import Rows
from aligntune.errors import DataError
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.rewards import Reward, build, check_rows, columns
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.worker.device import Device
from aligntune.worker.failures import tell
from aligntune.worker.inputs.fetch import at, fetched
from aligntune.worker.inputs.model import locate
from aligntune.worker.inputs.tokenize import is_chat


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
        for label, column in columns(spec.rewards).items():
            if column not in rows.dataset.column_names:
                there = [name for name in rows.dataset.column_names if name != "prompt"]
                raise DataError(
                    f"reward {label} reads the column {column!r}, which {rows.source} lacks; "
                    f"it has: {', '.join(there) or 'only the prompt'}",
                    "Set the reward's args.column, or map one with dataset.columns",
                )

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
