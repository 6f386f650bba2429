"""Download models and datasets into the caller's cache before training.

A short container with network and token does this, and records the path and commit of each
download. Training then reads these files without network or token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aligntune.data.files import by_suffix, counted
from aligntune.errors import AligntuneError, DataError, HubError
from aligntune.hub_errors import hub_refusal
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.tasks import Task, evaluation_set, repositories, spec_for

WEIGHTS_TO_SKIP = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.pth", "*.tflite")
NO_DATA = ("README.md", ".gitattributes")
"""Files of every repository, which are not worth a note."""

FOLDERS_TO_SKIP = ("original/*", "onnx/*", "openvino/*", "coreml/*")


def fetch(spec: RunSpec, run: RunDir, events: EventWriter, task: Task | None = None) -> None:
    """Download every hub id that is read into the cache, and record paths and commits.

    Downloads in the record, of an earlier attempt or of the run that a task works on, are used at
    the same commit, even if the branch has moved.

    Raises:
        HubError: the hub cannot be reached, or refuses.
        DataError: the dataset has no such configuration or split.
    """
    events("phase", name="fetch")
    spec = spec_for(spec, task) if task else spec
    before = run.record().fetched or {}
    found: dict[str, Any] = {"datasets": {}, "rewards": {}, **before}
    for kind, name, revision in repositories(spec, task):
        if kind == "dataset" or is_local(name):
            continue
        of_reward = kind == "reward"
        known, key = (found["rewards"], at(name, revision)) if of_reward else (found, kind)
        old = known.get(key)
        if old and Path(old["path"]).exists():
            continue
        fetched, ignored = _fetch_repository(name, old["commit"] if old else revision)
        known[key] = fetched
        events("note", message=f"{kind} {name} at {fetched['commit'][:12]}{ignored}")
    for name, split in dataset_splits(spec, task):
        old = found["datasets"].get(f"{name}:{split}")
        if old and all(Path(file).exists() for file in old["files"]):
            continue
        rows, ignored = _fetch_dataset(name, split, spec, old["commit"] if old else None)
        found["datasets"][f"{name}:{split}"] = rows
        events("note", message=f"dataset {name}, split {split}: {rows['rows']} rows{ignored}")
    run.update(fetched=found)


def fetch_missing(
    spec: RunSpec, run: RunDir, events: EventWriter, task: Task | None = None
) -> None:
    """Fetch if nothing has been fetched for this run, as in a container started by hand."""
    remote = any(not is_local(name) for _, name, _ in repositories(spec, task))
    if run.record().fetched is None and remote:
        fetch(spec, run, events, task)


def at(name: str, revision: str | None) -> str:
    """A hub id with its revision, because a run may need two revisions of a model."""
    return f"{name}@{revision}" if revision else name


def fetched(run: RunDir) -> dict[str, Any]:
    """Paths and commits of the downloads of this run."""
    return run.record().fetched or {}


def dataset_splits(spec: RunSpec, task: Task | None = None) -> list[tuple[str, str]]:
    """Hub datasets that are read, as (id, split without its slice)."""
    named = [(spec.dataset.name, spec.dataset.split)] if task is None else []
    if (task is None or task.kind == "evaluate") and (held_out := evaluation_set(spec)):
        named.append(held_out)
    found = [(name, split.partition("[")[0]) for name, split in named if not is_local(name)]
    return list(dict.fromkeys(found))


def _ignored(names: Iterable[str]) -> str:
    """The end of a note about files of a repository that are not read."""
    told = counted(by_suffix(name for name in names if name not in NO_DATA))
    return f"; not read: {told}" if told else ""


def _fetch_repository(name: str, revision: str | None) -> tuple[dict[str, str], str]:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    names: list[str] = []
    try:
        skip = [*WEIGHTS_TO_SKIP, *FOLDERS_TO_SKIP]
        if not constants.HF_HUB_OFFLINE:
            files = HfApi().model_info(name, revision=revision).siblings or []
            names = [file.rfilename for file in files]
            if any(name.endswith(".safetensors") for name in names):
                skip.append("*.bin")
        # Use the requested name, so that the cache resolves it later when offline.
        path = snapshot_download(name, revision=revision, ignore_patterns=skip)
    except Exception as error:
        raise hub_error(f"model {name}", revision, error) from error
    read = set(filter_repo_objects(names, ignore_patterns=skip))
    ignored = _ignored(name for name in names if name not in read)
    return {"path": path, "commit": Path(path).name}, ignored


def _fetch_dataset(
    name: str, split: str, spec: RunSpec, commit: str | None
) -> tuple[dict[str, Any], str]:
    from datasets import load_dataset_builder

    config = spec.dataset.config if name == spec.dataset.name else None
    revision = commit or (spec.dataset.revision if name == spec.dataset.name else None)
    try:
        builder = load_dataset_builder(name, config, revision=revision)
        builder.download_and_prepare()
        loaded = builder.as_dataset(split=split)
    except ValueError as error:
        raise DataError(
            f"dataset {name}: {str(error).rstrip('.')}", "Set dataset.split or dataset.config"
        ) from error
    except Exception as error:
        raise hub_error(f"dataset {name}", revision, error) from error
    files = [entry["filename"] for entry in loaded.cache_files]
    commit = next((part for part in Path(files[0]).parts if len(part) == 40), None)
    read = [file for split in (builder.config.data_files or {}).values() for file in split]
    ignored = _ignored(_unread_files(name, commit, read))
    return {"files": files, "rows": len(loaded), "commit": commit}, ignored


def _unread_files(name: str, commit: str | None, read: Sequence[str]) -> list[str]:
    """The files of a dataset's repository that none of its splits is made of.

    Args:
        name: hub id.
        commit: of the repository.
        read: addresses of the files that ``datasets`` read; empty if it does not say.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE or not read:
        return []
    files = HfApi().dataset_info(name, revision=commit).siblings or []
    return [
        file.rfilename
        for file in files
        if not any(address.endswith(f"/{file.rfilename}") for address in read)
    ]


def hub_error(
    what: str, revision: str | None, error: Exception, done: str = "fetched"
) -> AligntuneError:
    """The error for a hub's error, for the user."""
    kind = type(error).__name__
    if (refusal := hub_refusal(kind, what, revision)) is not None:
        return refusal
    lines = str(error).strip().splitlines()
    return HubError(
        f"{what} could not be {done}: {kind}: {lines[0] if lines else ''}",
        "Check the network, HF_ENDPOINT and proxies",
    )
