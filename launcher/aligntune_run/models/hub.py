"""Facts about a hub model: from the caller's cache, or by a few small requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, HubError, ModelError
from aligntune.hub_errors import hub_refusal
from aligntune_run.models.config import CONFIG_BYTES, parse_object, read_object
from aligntune_run.models.facts import ModelFacts, of_config, of_tensors, read_folder, with_room
from aligntune_run.models.hub_client import (
    Answer,
    Hub,
    connect,
    reason,
    refusal,
    snapshot,
    together,
)
from aligntune_run.models.safetensors import (
    BITS,
    DTYPES,
    INDEX_BYTES,
    MOST_VALUES,
    has_output,
    header_length,
    linear_sums_by_name,
    parse_header,
    weight_names,
)

INFO_BYTES = 8 * 2**20
FIRST_BYTES = 2**17
"""First bytes of a weights file, which usually contain its whole header."""

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_hub_model(
    name: str, revision: str | None, cache: Path, environment: Mapping[str, str], token: Path | None
) -> ModelFacts:
    """The facts of a hub model; never raises, whatever the hub or a file says.

    Args:
        name: hub id.
        revision: branch, tag or commit; None is the main branch.
        cache: the caller's hub cache.
        environment: for HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
        token: the file with the hub token, if there is one.

    Returns:
        The facts known within :data:`~aligntune_run.models.hub_client.HUB_SECONDS`. ``note`` says
        why some are unknown, and ``refused`` whether fetching would end with an error.
    """
    here, problem = snapshot(cache, name, revision), ""
    if here is not None:
        try:
            return read_folder(here)
        except ModelError as incomplete:
            problem = incomplete.what  # usually only part was fetched, and the hub knows the rest
    hub = connect(environment, token)
    if hub is not None:
        found = _ask_hub(hub, name, revision)
        if found.model_type is not None or found.refused is not None or here is None:
            return found
        return replace(_cached(here), note=found.note)
    if here is None:
        error = hub_refusal("OfflineModeIsEnabled", f"model {name}", revision)
        return ModelFacts(note="HF_HUB_OFFLINE is set, and it is not in the cache", refused=error)
    note = f"HF_HUB_OFFLINE is set, and model {name} is incomplete in the cache: {problem}"
    return replace(
        _cached(here), note=note, refused=HubError(note, "Unset HF_HUB_OFFLINE and fetch it once")
    )


def _cached(snapshot: Path) -> ModelFacts:
    """The facts of a ``config.json`` that was fetched alone."""
    try:
        return of_config(read_object(snapshot / "config.json", CONFIG_BYTES))
    except (ModelError, FileNotFoundError):
        return ModelFacts()


@dataclass(frozen=True)
class _Info:
    """The hub's metadata of a repository; None for what is unknown."""

    gated: bool = False
    files: frozenset[str] | None = None
    parameters: int | None = None
    dtype: str | None = None


def _ask_hub(hub: Hub, name: str, revision: str | None) -> ModelFacts:
    at = revision or "main"
    answers = together(
        {
            "info": lambda: hub.info("model", name, at, INFO_BYTES + 1),
            "config": lambda: hub.file(name, at, "config.json", CONFIG_BYTES + 1),
        },
        hub.deadline,
    )
    told, answer = answers["info"], answers["config"]
    info = _info(told) if isinstance(told, Answer) else _Info()
    refused = next(
        filter(
            None,
            (
                refusal(one, f"model {name}", revision)
                for one in (answer, told)
                if isinstance(one, Answer)
            ),
        ),
        None,
    )
    if refused is not None:
        gated = isinstance(answer, Answer) and answer.code == "GatedRepo"
        return ModelFacts(
            gated=gated, granted=False if gated else None, note=refused.what, refused=refused
        )
    if isinstance(answer, OSError):
        return ModelFacts(gated=info.gated, note=f"the hub was not reached: {reason(answer)}")
    if unusable := _unusable(answer, info, name):
        return ModelFacts(gated=info.gated, note=unusable.what, refused=unusable)
    try:
        if not answer.good:
            raise ModelError(f"the hub answered {answer.status}")
        config = parse_object(answer.body, CONFIG_BYTES, f"the config.json of {name}")
    except ModelError as error:
        return ModelFacts(gated=info.gated, note=error.what)
    facts = _with_weights(hub, name, at, config, info)
    return replace(facts, gated=info.gated, granted=True if info.gated else None)


def _unusable(answer: Answer, info: _Info, name: str) -> AligntuneError | None:
    """The error if the repository is not a model with weights, which fetching cannot fix."""
    files = info.files
    if answer.code == "EntryNotFound":
        if files and "adapter_config.json" in files:
            return ModelError(
                f"{name} is an adapter, not a model",
                "Use --model for its base model, and --set adapter.path=... for the adapter",
            )
        return ModelError(
            f"{name} is not a transformers model: there is no config.json",
            "Use a repository with config.json and *.safetensors",
        )
    if files and not any(file.endswith((".safetensors", ".bin")) for file in files):
        return ModelError(
            f"{name} has no weights (*.safetensors or *.bin)",
            "Use a repository that has them; GGUF files cannot be trained",
        )
    return None


def _with_weights(
    hub: Hub, name: str, revision: str, config: dict[str, Any], info: _Info
) -> ModelFacts:
    """Add facts about the weights to ``config.json``, from their file's header or their index."""
    known = of_config(config)
    counted = replace(known, parameters=info.parameters, dtype=info.dtype or known.dtype)
    files = info.files
    jobs = {
        ONE_FILE: lambda: hub.file(name, revision, ONE_FILE, FIRST_BYTES, part=True),
        INDEX: lambda: hub.file(name, revision, INDEX, INDEX_BYTES + 1),
    }
    wanted = {file: job for file, job in jobs.items() if files is None or file in files}
    answers = together(wanted, hub.deadline)
    failed = [error for error in answers.values() if isinstance(error, OSError)]
    good = {
        file: answer
        for file, answer in answers.items()
        if isinstance(answer, Answer) and answer.good
    }
    try:
        if ONE_FILE in good:
            return _of_header(hub, name, revision, config, good[ONE_FILE])
        if INDEX in good:
            return _of_index(good[INDEX].body, name, config, info)
    except ModelError as error:
        return replace(counted, note=_notes(known.note, error.what))
    except OSError as error:
        failed.append(error)
    why = f"the hub was not reached: {reason(failed[0])}" if failed else "it has no safetensors"
    return replace(counted, note=_notes(known.note, f"its weights are unknown: {why}"))


def _of_header(
    hub: Hub, name: str, revision: str, config: dict[str, Any], first: Answer
) -> ModelFacts:
    label = f"{ONE_FILE} of {name}"
    length = header_length(first.body, first.size, label)
    body = first.body
    if len(body) < 8 + length:
        ask = partial(hub.file, name, revision, ONE_FILE, 8 + length, part=True)
        whole = together({ONE_FILE: ask}, hub.deadline)[ONE_FILE]
        if isinstance(whole, OSError):
            raise whole
        body = whole.body
        if len(body) < 8 + length:
            raise ModelError(f"{label} is truncated")
    tensors = parse_header(body[8 : 8 + length], first.size, label)
    if not tensors:
        raise ModelError(f"{label} has no weights: it contains no tensors")
    return of_tensors(config, tensors)


def _of_index(body: bytes, name: str, config: dict[str, Any], info: _Info) -> ModelFacts:
    label = f"the index of {name}"
    index = parse_object(body, INDEX_BYTES, label, MOST_VALUES)
    names = weight_names(index, label)
    known = of_config(config, not has_output(names))
    metadata = index.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    dtype = info.dtype or known.dtype
    count = _count(metadata.get("total_parameters")) or info.parameters
    size = _count(metadata.get("total_size"))
    if count is None and size and dtype in BITS:
        count = size * 8 // BITS[dtype]
    if count is not None and not known.quantized:
        known = with_room(known, count)
    note = known.note
    if known.quantized:
        count = None
        note = _notes(note, f"the number of parameters packed by {known.quantized} is unknown")
    linear = linear_sums_by_name(names, known.shape) if known.shape else ()
    return replace(known, parameters=count, dtype=dtype, linear=linear, note=note)


def _info(answer: Answer) -> _Info:
    """The usable metadata of a repository; empty if it is not valid."""
    try:
        data = parse_object(answer.body, INFO_BYTES, "the hub's metadata") if answer.good else {}
    except ModelError:
        return _Info()
    siblings = data.get("siblings")
    files = None
    if isinstance(siblings, list):
        names = (one.get("rfilename") for one in siblings if isinstance(one, dict))
        files = frozenset(name for name in names if isinstance(name, str))
    summary = data.get("safetensors")
    summary = summary if isinstance(summary, dict) else {}
    by_dtype = summary.get("parameters")
    counts: Counter[str] = Counter()
    for dtype, value in by_dtype.items() if isinstance(by_dtype, dict) else ():
        if dtype in DTYPES and (count := _count(value)):
            counts[DTYPES[dtype][0]] = count
    return _Info(
        gated=bool(data.get("gated")),
        files=files,
        parameters=_count(summary.get("total")),
        dtype=counts.most_common(1)[0][0] if counts else None,
    )


def _count(value: Any) -> int | None:
    """A value that can be a number of parameters or bytes, or None."""
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**60
    return int(value) if whole else None


def _notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))
