"""Fetch, then train: what comes from a hub is brought into the caller's cache first.

A short container with network and token does this, and writes into the record which commit of what
it brought; training then reads those files with neither network nor token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, DataError, HubError
from aligntune.events import EventWriter
from aligntune.rundir import RunDir
from aligntune.spec import RunSpec, is_local

WEIGHTS_TO_SKIP = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.pth", "*.tflite")
FOLDERS_TO_SKIP = ("original/*", "onnx/*", "openvino/*", "coreml/*")


def fetch(spec: RunSpec, run: RunDir, events: EventWriter) -> None:
    """Bring every hub id of ``spec`` into the cache and record where and at which commit.

    Raises:
        HubError: the hub cannot be reached, or refuses.
        DataError: the dataset has no such configuration or split.
    """
    events("phase", name="fetch")
    if _still_there(run.record().get("fetched")):
        return  # gone on with: the same commits, whatever the branches say by now
    found: dict[str, Any] = {"datasets": {}, "rewards": {}}
    for kind, name, revision in spec.repositories:
        if kind == "dataset" or is_local(name):
            continue
        fetched = _fetch_repository(name, revision)
        events("note", message=f"{kind} {name} at {fetched['commit'][:12]}")
        if kind == "reward":
            found["rewards"][name] = fetched
        else:
            found[kind] = fetched
    for name, split in dataset_splits(spec):
        rows = _fetch_dataset(name, split, spec)
        found["datasets"][f"{name}:{split}"] = rows
        events("note", message=f"dataset {name}, split {split}: {rows['rows']} rows")
    run.update(fetched=found)


def _still_there(found: dict[str, Any] | None) -> bool:
    """Whether everything that was fetched for an earlier attempt is still in the cache."""
    if not found:
        return False
    paths = [found[name]["path"] for name in ("model", "adapter") if name in found]
    paths += [reward["path"] for reward in found.get("rewards", {}).values()]
    paths += [file for dataset in found["datasets"].values() for file in dataset["files"]]
    return all(Path(path).exists() for path in paths)


def fetch_missing(spec: RunSpec, run: RunDir, events: EventWriter) -> None:
    """Fetch what nobody has fetched for this run yet, as in a container that is run by hand."""
    remote = any(not is_local(name) for _, name, _ in spec.repositories)
    if "fetched" not in run.record() and remote:
        fetch(spec, run, events)


def fetched(run: RunDir) -> dict[str, Any]:
    """Where what was fetched for this run lies."""
    found: dict[str, Any] = run.record()["fetched"]
    return found


def dataset_splits(spec: RunSpec) -> list[tuple[str, str]]:
    """Hub datasets a request reads, as (id, split without its slice)."""
    wanted = spec.dataset
    named = [(wanted.name, wanted.split)]
    if wanted.eval_name or wanted.eval_split:
        named.append((wanted.eval_name or wanted.name, wanted.eval_split or "train"))
    found = [(name, split.partition("[")[0]) for name, split in named if not is_local(name)]
    return list(dict.fromkeys(found))


def _fetch_repository(name: str, revision: str | None) -> dict[str, str]:
    from huggingface_hub import HfApi, constants, snapshot_download

    try:
        skip = [*WEIGHTS_TO_SKIP, *FOLDERS_TO_SKIP]
        if not constants.HF_HUB_OFFLINE:
            files = HfApi().model_info(name, revision=revision).siblings or []
            if any(file.rfilename.endswith(".safetensors") for file in files):
                skip.append("*.bin")
        # By the name that was asked for, so that the cache remembers what it meant, for offline.
        path = snapshot_download(name, revision=revision, ignore_patterns=skip)
    except Exception as error:
        raise _hub_error(f"model {name}", revision, error) from error
    return {"path": path, "commit": Path(path).name}


def _fetch_dataset(name: str, split: str, spec: RunSpec) -> dict[str, Any]:
    from datasets import load_dataset

    config = spec.dataset.config if name == spec.dataset.name else None
    revision = spec.dataset.revision if name == spec.dataset.name else None
    try:
        loaded = load_dataset(name, config, split=split, revision=revision)
    except ValueError as error:
        raise DataError(
            f"dataset {name}: {str(error).rstrip('.')}", "Set dataset.split or dataset.config"
        ) from error
    except Exception as error:
        raise _hub_error(f"dataset {name}", revision, error) from error
    files = [entry["filename"] for entry in loaded.cache_files]
    commit = next((part for part in Path(files[0]).parts if len(part) == 40), None)
    return {"files": files, "rows": len(loaded), "commit": commit}


def _hub_error(what: str, revision: str | None, error: Exception) -> AligntuneError:
    """The user's words for what a hub said."""
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return HubError(
            f"{what} is gated, and this token has no access",
            "Accept its terms on the hub, and log in with `hf auth login` or set HF_TOKEN",
        )
    if kind in ("RepositoryNotFoundError", "DatasetNotFoundError"):
        return HubError(
            f"no such {what} on the hub", "Check the name; a private one needs HF_TOKEN"
        )
    if kind == "RevisionNotFoundError":
        return HubError(
            f"{what} has no revision {revision or 'main'}", "Check the branch, tag or commit"
        )
    if kind in ("OfflineModeIsEnabled", "LocalEntryNotFoundError"):
        return HubError(
            f"{what} is not in the cache, and the hub is out of reach", "Go online once"
        )
    lines = str(error).strip().splitlines()
    return HubError(
        f"{what} could not be fetched: {kind}: {lines[0] if lines else ''}",
        "Check the network, HF_ENDPOINT and proxies",
    )
