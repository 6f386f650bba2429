"""Checks of a request's files before anything heavy, as data.

Nothing here raises: a problem is a finding, with the error that the worker would end with. The
caller decides whether to raise it.
"""

from __future__ import annotations

import ast
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aligntune.data.preview import look_at
from aligntune.data.sources import Source
from aligntune.errors import AligntuneError, DataError, ModelError, OutputError, RewardError, shown
from aligntune.rewards import require_columns
from aligntune.spec.paths import similar_path
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.tasks import evaluation_set
from aligntune_run.models import hub_client
from aligntune_run.models.config import CONFIG_BYTES, read_object
from aligntune_run.models.facts import ModelFacts, read_folder, read_model
from aligntune_run.models.hub import read_hub_model
from aligntune_run.plan import Finding
from aligntune_run.planning.targets import look_at_targets

TEXT_BYTES = 2**22
"""More than any chat template takes."""

REWARD_BYTES = 2**18
"""Only the worker checks a longer reward file: parsing takes 500 times its size in memory."""

NAME_BYTES = 255
"""The longest name of a file or folder on all common file systems of Linux."""

NOT_DISKS = ("/proc", "/sys")

STATE_BYTES = 12
"""Per trained parameter in a checkpoint: the parameter and two moments, in float32."""

WEIGHT_BYTES = 4


@dataclass(frozen=True)
class Inputs:
    """What was seen: the model that is trained, and all findings, in the order of the checks."""

    model: ModelFacts
    findings: tuple[Finding, ...]


def look(
    spec: RunSpec, run_dir: Path, cache: Path, environment: Mapping[str, str], token: Path | None
) -> Inputs:
    """Check everything of the user's that a run will read, and where it will write.

    Local files are read as far as bounds allow (the headers of weights, the first rows of data);
    the hub is asked a few small questions, all within
    :data:`aligntune_run.models.hub_client.HUB_SECONDS`.

    Args:
        spec: the request.
        run_dir: where the run will write.
        cache: the caller's hub cache.
        environment: for HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
        token: the file with the hub token, if there is one.
    """
    there, access = _ask_hub(spec, cache, environment, token)
    model, found = look_at_model(spec.model.name, there)
    findings = [
        *(_or_neighbour(finding, "model", spec.model.name) for finding in found),
        *look_at_targets(spec, model),
        *access,
        *_files(spec),
        *_data(spec),
        _tried("output", f"{run_dir} can be written", lambda: require_writable(run_dir)),
        _disk(spec, model, run_dir),
    ]
    return Inputs(model, tuple(findings))


def _or_neighbour(finding: Finding, kind: str, name: str) -> Finding:
    """Fail if a hub id may not be there, and a local file or folder has a similar path."""
    near = None if finding.level == "pass" or is_local(name) else similar_path(name, Path.cwd())
    if near is None:
        return finding
    error = (DataError if kind == "dataset" else ModelError)(
        f"no {kind} {name} on this machine, and {finding.evidence.partition(f'{name}: ')[2]}",
        f"Did you mean {near}?",
    )
    return Finding(finding.rule, "fail", error.what, error)


def require_writable(path: Path) -> None:
    """Refuse a run directory that cannot be created.

    Raises:
        OutputError: the nearest existing folder above it is not writable, or the name is not valid.
    """
    remedy = "Name another folder with --output"
    if any(_is_no_name(part) for part in path.parts):
        raise OutputError(f"{shown(path)} is not a valid folder name", remedy)
    above = nearest_folder(path)
    if any(Path(os.path.realpath(above)).is_relative_to(kernel) for kernel in NOT_DISKS):
        raise OutputError(f"{above} belongs to the kernel and holds no other files", remedy)
    if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        raise OutputError(f"cannot write to {above}", f"{remedy}, or change its owner")


def _is_no_name(part: str) -> bool:
    try:
        return len(os.fsencode(part)) > NAME_BYTES or "\0" in part
    except UnicodeEncodeError:  # half a character, as JSON can have it
        return True


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def _tried(rule: str, good: str, work: Callable[[], object]) -> Finding:
    """The finding of a check that raises if something is wrong."""
    try:
        work()
    except AligntuneError as error:
        return Finding(rule, "fail", error.what, error)
    return Finding(rule, "pass", good)


def look_at_model(name: str, there: ModelFacts) -> tuple[ModelFacts, list[Finding]]:
    """What is known of a model, from its folder or from the hub.

    Args:
        name: its folder, or hub id.
        there: what the hub answered.
    """
    known = there
    if is_local(name):
        try:
            known = read_model(name)
        except AligntuneError as error:
            return ModelFacts(note=error.what), [Finding("model_files", "fail", error.what, error)]
    if known.refused is not None:
        rule = "credentials" if known.gated else "model_files"
        return known, [Finding(rule, "fail", known.refused.what, known.refused)]
    if known.model_type is None:
        return known, [Finding("model_files", "warn", f"{name}: {known.note}")]
    found = [Finding("model_files", "pass", f"{name} has {_told(known)}")]
    if known.granted:
        found.append(Finding("credentials", "pass", f"{name} is gated, and this token opens it"))
    return known, found


def _told(known: ModelFacts) -> str:
    count = f"{known.parameters:,}" if known.parameters else "an unknown number of"
    dtype = f" in {known.dtype}" if known.dtype else ""
    return f"{count} parameters{dtype}" + (f" ({known.note})" if known.note else "")


def _ask_hub(
    spec: RunSpec, cache: Path, environment: Mapping[str, str], token: Path | None
) -> tuple[ModelFacts, list[Finding]]:
    """A hub model's facts, and whether all else from a hub may be read; asked in parallel."""
    jobs: dict[str, Callable[[], ModelFacts | Finding]] = {}
    offline: list[Finding] = []
    there = hub_client.connect(environment, token)
    for kind, name, revision in spec.repositories:
        stored = "dataset" if kind == "dataset" else "model"
        if is_local(name):
            continue
        if kind == "model":
            jobs[kind] = partial(read_hub_model, name, revision, cache, environment, token)
        elif there is not None and not hub_client.snapshot(cache, name, revision, stored):
            jobs[f"{kind} {name}"] = partial(_access, there, stored, name)
        elif there is None and not hub_client.snapshot(cache, name, revision, stored):
            note = f"{kind} {name}: HF_HUB_OFFLINE is set, and it is not in the cache"
            offline.append(_or_neighbour(Finding("credentials", "warn", note), kind, name))
    model = ModelFacts()
    # A dataset may be in the cache of processed datasets, so alone this is no finding.
    found = [finding for finding in offline if finding.error]
    deadline = (
        time.monotonic() + hub_client.HUB_SECONDS + 1
    )  # each request has its own, shorter deadline
    for key, answer in hub_client.together(jobs, deadline).items():
        if isinstance(answer, ModelFacts):
            model = answer
        elif isinstance(answer, Finding):
            found.append(_or_neighbour(answer, *key.split(" ", 1)))
        elif key == "model":
            model = ModelFacts(note=f"the hub was not reached: {hub_client.reason(answer)}")
        else:
            note = f"{key}: the hub was not reached: {hub_client.reason(answer)}"
            unsure = Finding("credentials", "warn", note)
            found.append(_or_neighbour(unsure, *key.split(" ", 1)))
    return model, found


def _access(there: hub_client.Hub, kind: str, name: str) -> Finding:
    answer = there.access(kind, name)
    error = hub_client.refusal(answer, f"{kind} {name}", None)
    if error is not None:
        return Finding("credentials", "fail", error.what, error)
    if not answer.good:
        return Finding("credentials", "warn", f"{kind} {name}: the hub answers {answer.status}")
    return Finding("credentials", "pass", f"{kind} {name} may be fetched")


def _files(spec: RunSpec) -> Iterator[Finding]:
    """Local files beside model and data: adapter, chat template, rewards."""
    adapter, template = spec.adapter.path, spec.model.chat_template
    if adapter and is_local(adapter):
        yield _tried("adapter", f"{adapter} is an adapter", partial(_require_adapter, adapter))
    if template:
        work = partial(_read_text, template, "the chat template")
        yield _tried("chat_template", f"{template} can be read", work)
    for reward in spec.rewards:
        if reward.file:
            good = f"{reward.file} is a file"
            yield _tried("rewards", good, partial(_require_python, reward.file))
        elif reward.model and is_local(reward.model):
            good = f"{reward.model} is a model folder"
            yield _tried("rewards", good, partial(read_folder, Path(reward.model)))


def _require_adapter(name: str) -> None:
    folder = Path(name)
    remedy = "Name a folder that peft saved"
    try:
        read_object(folder / "adapter_config.json", CONFIG_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"no adapter in {name}: no adapter_config.json", remedy) from None
    weights = ("adapter_model.safetensors", "adapter_model.bin")
    if not any((folder / file).is_file() for file in weights):
        raise ModelError(f"the adapter {name} has no weights ({' or '.join(weights)})", remedy)


def _read_text(name: str, what: str) -> str:
    try:
        if not os.path.isfile(name):
            raise ModelError(f"cannot read {what} {name}: it is not a file")
        with open(name, "rb") as file:
            return file.read(TEXT_BYTES).decode()
    except OSError as error:
        raise ModelError(f"cannot read {what} {name}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ModelError(f"cannot read {what} {name}: not UTF-8 text", "Save it as UTF-8") from None


def _require_python(name: str) -> None:
    """Refuse a reward file that is not Python. Only the worker can check whether it imports."""
    try:
        if not os.path.isfile(name):
            raise RewardError(f"cannot read {name}: it is not a file")
        with warnings.catch_warnings(), open(name, "rb") as file:
            warnings.simplefilter("ignore")
            if len(code := file.read(REWARD_BYTES + 1)) <= REWARD_BYTES:
                ast.parse(code)
    except SyntaxError as error:
        raise RewardError(
            f"the reward file {name} does not import: line {error.lineno}: {error.msg}", "Fix it"
        ) from None
    except OSError as error:
        raise RewardError(f"cannot read {name}: {error.strerror or error}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RewardError(f"the reward file {name} does not import: {error}", "Fix it") from None


def _data(spec: RunSpec) -> Iterator[Finding]:
    """The first rows of every local dataset that is read."""
    sets = [("data", spec.dataset.name, spec.dataset.split)]
    held_out = evaluation_set(spec)
    if held_out is not None and held_out != sets[0][1:]:
        sets.append(("evaluation_data", *held_out))
    for rule, name, split in sets:
        if not is_local(name):
            yield Finding(
                rule, "pass", f"{name} is on the hub, and is checked after it has been fetched"
            )
            continue
        limit = spec.dataset.max_samples if rule == "data" and "[" not in split else None
        source = Source(name, path=Path(name))
        try:
            seen = look_at(source, split, spec.dataset, spec.row.formats, limit)
            if seen.columns:
                require_columns(spec.rewards, seen.columns, f"{name}, split {split}")
        except DataError as error:
            yield Finding(rule, "fail", error.what, error)
            continue
        first = "its first row is" if seen.rows == 1 else f"its first {seen.rows} rows are"
        rows = f"{first} good" if seen.rows else "its rows are read by the worker only"
        told = f"{seen.format.replace('_', '-')} data; {rows}" if seen.format else rows
        ignored = f"; not read: {seen.left_out}" if seen.left_out else ""
        yield Finding(rule, "pass", f"{name}: {told}{ignored}")


def _disk(spec: RunSpec, model: ModelFacts, run_dir: Path) -> Finding:
    """Whether the result and the checkpoints fit on the disk. For a moment there is one checkpoint
    more than are kept.
    """
    above = nearest_folder(run_dir)
    try:
        free = shutil.disk_usage(above).free
    except OSError as error:
        return Finding("disk", "warn", f"how much is free on {above} is not known: {error}")
    known = f"{_size(free)} are free on {above}"
    trained = trained_parameters(spec, model)
    if trained is None:
        return Finding("disk", "pass", f"{known}; what checkpoints take is not known")
    kept = (spec.training.save_total_limit or 1) + 1
    needed = trained * (STATE_BYTES * kept + WEIGHT_BYTES)
    evidence = f"{known}; the result and {kept} checkpoints take about {_size(needed)}"
    if free >= needed:
        return Finding("disk", "pass", evidence)
    return Finding("disk", "warn", f"{evidence}: lower training.save_total_limit, or free some")


def trained_parameters(spec: RunSpec, model: ModelFacts) -> int | None:
    """The number of parameters that are trained and saved; None if the model does not say."""
    if spec.adapter.type == "none":
        return model.parameters
    if not model.linear or spec.adapter.path:
        return None
    targets = spec.adapter.targets
    wanted = [size for name, size in model.linear if targets == "all-linear" or name in targets]
    return sum(wanted) * spec.adapter.rank


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
