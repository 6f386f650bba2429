"""Make the local paths in a request absolute."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, DataError, ModelError, SpecError
from aligntune.record.run_dir import RECORD, finished_model
from aligntune.spec.suggest import similar

PATH_KEYS: tuple[tuple[str, str, type[AligntuneError] | None], ...] = (
    ("model", "name", ModelError),
    ("model", "chat_template", None),
    ("dataset", "name", DataError),
    ("dataset", "eval_name", DataError),
    ("adapter", "path", ModelError),
)
"""Keys whose value may be a local path, with the error for a missing path. None means that the
value is always a path."""

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""Formats of data that are read."""

COMPRESSED = (".gz", ".bz2", ".xz")
"""Suffixes of compressed files, after the suffix of a text format (``rows.jsonl.gz``)."""

MOST_NEIGHBOURS = 10_000
"""Names in a folder that are compared with a mistyped one."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def local_paths(values: dict[str, Any], base_dir: Path) -> dict[str, Any]:
    """Make the names of existing files and folders absolute, so that they are valid everywhere."""
    for section, key, kind in PATH_KEYS:
        branch = values.get(section)
        if isinstance(branch, dict) and isinstance(branch.get(key), str):
            branch[key] = local_name(branch[key], base_dir, section, key, kind)
    if "rewards" in values:
        values["rewards"] = [
            _local_reward(reward, base_dir) for reward in listed(values["rewards"])
        ]
    output = values.get("output")
    if isinstance(output, str):
        values["output"] = os.path.normpath(base_dir / os.path.expanduser(output))
    _use_model_of_run(values)
    return values


def local_name(
    name: str, base_dir: Path, section: str, key: str, kind: type[AligntuneError] | None
) -> str:
    """``name`` as an absolute path if it exists, else unchanged if it may be a hub id.

    Raises:
        AligntuneError: of class ``kind``: it is a path, and there is no such file or folder.
    """
    path = _absolute(name, base_dir)
    if os.path.exists(path):  # unlike Path.exists, no exception below an unreadable folder
        return str(path)
    if kind is not None and (looks_like_path(name) or not HUB_ID.fullmatch(name)):
        raise kind(f"no such {section}: {name}", _looked_for(name, base_dir))
    if kind is None:
        raise SpecError(f"{section}.{key}: no such file: {name}", _looked_for(name, base_dir))
    return name


def similar_path(name: str, base_dir: Path) -> str | None:
    """An existing file or folder with a similar path, as the user would write it."""
    path = _absolute(name, base_dir)
    for part in reversed([path, *path.parents]):
        if os.path.exists(part):
            continue
        try:
            there = os.listdir(part.parent)[:MOST_NEIGHBOURS]
        except OSError:
            return None
        stems = {Path(other).stem: other for other in there}
        names = (part.name, part.stem, similar(part.stem, list(stems)))
        found = next((stems[name] for name in names if name in stems), None)
        if found is None:
            return None
        near = part.parent / found / path.relative_to(part)
        if os.path.exists(near):
            inside = near.is_relative_to(base_dir)
            return f"./{near.relative_to(base_dir)}" if inside else str(near)
        return similar_path(str(near), base_dir)  # a part below it is mistyped too
    return None


def _looked_for(name: str, base_dir: Path) -> str:
    near = similar_path(name, base_dir)
    looked = f"Looked for {_absolute(name, base_dir)}"
    return f"{looked}; did you mean {near}?" if near else looked


def _local_reward(reward: Any, base_dir: Path) -> Any:
    """A reward with the absolute path of its file or model."""
    if isinstance(reward, str):
        reward = {"name": reward}
    if not isinstance(reward, Mapping):
        return reward  # of a wrong type, which validation refuses
    name, model = reward.get("name"), reward.get("model")
    if isinstance(name, str) and ":" in name:
        file, _, function = name.rpartition(":")
        path = _absolute(file, base_dir)
        if not os.path.isfile(path):
            raise SpecError(f"reward {name}: no such file: {file}", _looked_for(file, base_dir))
        return {**reward, "name": f"{path}:{function}"}
    if isinstance(model, str):
        named = local_name(model, base_dir, "reward model", "model", ModelError)
        made = finished_model(Path(named)) if named != model or os.path.isabs(model) else None
        return {**reward, "model": str(made or named)}
    return reward


def listed(value: Any) -> list[Any]:
    """Rewards as a list; a single reward may be given without one."""
    if isinstance(value, str | Mapping):
        return [value]
    return list(value) if isinstance(value, list | tuple) else [value]


def _use_model_of_run(values: dict[str, Any]) -> None:
    """If the model is a run directory, use its result: its weights, or its base and adapter."""
    model = values["model"]
    run = Path(model["name"])
    if not run.is_absolute() or not os.path.isfile(run / RECORD):
        return
    made = finished_model(run)
    if made is None:
        raise ModelError(
            f"the run {run} has no model yet", f"Finish it with: aligntune-run --resume {run}"
        )
    try:
        adapter = json.loads((made / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        model["name"] = str(made)
        return
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read {made / 'adapter_config.json'}: {error}",
            "Fix the file or its permissions, or use another run",
        ) from error
    model["name"] = adapter["base_model_name_or_path"]
    if adapter.get("revision") and "revision" not in model:
        model["revision"] = adapter["revision"]
    values["adapter"] = {"path": str(made), "type": "lora", **(values.get("adapter") or {})}


def _absolute(name: str, base_dir: Path) -> Path:
    return Path(os.path.normpath(base_dir / os.path.expanduser(name)))


def looks_like_path(name: str) -> bool:
    """Whether a name must be a file or folder, because no hub id looks like this."""
    return name.startswith(("/", "./", "../", "~")) or name.lower().endswith(
        (*DATA_SUFFIXES, *COMPRESSED)
    )
