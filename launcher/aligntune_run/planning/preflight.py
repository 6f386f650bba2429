"""Checks of a request's files before anything heavy, as data.

:func:`look` does not raise: a problem is a failing verdict, with the error that the worker would
end with. To add a check, write a function with ``@INPUTS.check(...)``; it may raise that error.
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
from aligntune.errors import (
    AligntuneError,
    DataError,
    HubError,
    ModelError,
    OutputError,
    RewardError,
    SpecError,
    shown,
)
from aligntune.rewards import require_columns
from aligntune.spec.paths import similar_path
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.tasks import evaluation_set
from aligntune.units import gib
from aligntune_run.check import Result, Scope, Verdict, failed, passes, warns
from aligntune_run.models import hub_client
from aligntune_run.models.config import CONFIG_BYTES, read_object
from aligntune_run.models.facts import ModelFacts, read_folder, read_model
from aligntune_run.models.hub import read_hub_model
from aligntune_run.planning.targets import missing_targets

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
    """What the checks look at.

    Attributes:
        model: what is known of the model that is trained.
        access: what the hub answers for everything else that is on it.
    """

    spec: RunSpec
    run_dir: Path
    model: ModelFacts
    access: tuple[Result, ...] = ()


INPUTS = Scope[Inputs]()
"""The checks of a training's inputs, and of where it writes."""


def look(
    spec: RunSpec, run_dir: Path, cache: Path, environment: Mapping[str, str], token: Path | None
) -> tuple[ModelFacts, tuple[Verdict, ...]]:
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

    Returns:
        What is known of the model, and the verdicts in the order of the checks.
    """
    on_hub, access = _ask_hub(spec, cache, environment, token)
    model = read_local(spec.model.name, on_hub)
    return model, INPUTS.judge(Inputs(spec, run_dir, model, access))


def read_local(name: str, otherwise: ModelFacts) -> ModelFacts:
    """What is known of a model: from its folder, or ``otherwise`` if it is on the hub."""
    if not is_local(name):
        return otherwise
    try:
        return read_model(name)
    except AligntuneError as error:
        return ModelFacts(note=error.what, refused=error)


def refusals(model: ModelFacts) -> tuple[Verdict, ...]:
    """The verdict on a model that is not trained, if it cannot be loaded."""
    error = model.refused
    if error is None:
        return ()
    rule = "credentials" if model.gated else "model_files"
    return (Verdict(rule, "", "fail", error.what, error.remedy, type(error).__name__),)


@INPUTS.check("model_files", ModelError)
def _model_files(inputs: Inputs) -> Result | None:
    name, model = inputs.spec.model.name, inputs.model
    if model.refused is not None:
        refused = failed(model.refused)
        return None if model.gated else _or_neighbour(refused, "model", name)
    if model.model_type is None:
        return _or_neighbour(warns(f"{name}: {model.note}"), "model", name)
    count = f"{model.parameters:,}" if model.parameters else "an unknown number of"
    dtype = f" in {model.dtype}" if model.dtype else ""
    note = f" ({model.note})" if model.note else ""
    return passes(f"{name} has {count} parameters{dtype}{note}")


@INPUTS.check("credentials", HubError)
def _credentials(inputs: Inputs) -> Iterator[Result]:
    name, model = inputs.spec.model.name, inputs.model
    if model.refused is not None and model.gated:
        yield failed(model.refused)
    elif model.granted:
        yield passes(f"{name} is gated, and this token opens it")
    yield from inputs.access


def _or_neighbour(result: Result, kind: str, name: str) -> Result:
    """Fail if a hub id may not be there, and a local file or folder has a similar path."""
    near = None if result.level == "pass" or is_local(name) else similar_path(name, Path.cwd())
    if near is None:
        return result
    why = result.evidence.partition(f"{name}: ")[2] or result.evidence
    error = (DataError if kind == "dataset" else ModelError)(
        f"no {kind} {name} on this machine, and {why}", f"Did you mean {near}?"
    )
    return failed(error)


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


def _ask_hub(
    spec: RunSpec, cache: Path, environment: Mapping[str, str], token: Path | None
) -> tuple[ModelFacts, tuple[Result, ...]]:
    """A hub model's facts, and whether all else from a hub may be read; asked in parallel."""
    jobs: dict[str, Callable[[], ModelFacts | Result]] = {}
    offline: list[Result] = []
    hub = hub_client.connect(environment, token)
    for kind, name, revision in spec.repositories:
        stored = "dataset" if kind == "dataset" else "model"
        if is_local(name):
            continue
        if kind == "model":
            jobs[kind] = partial(read_hub_model, name, revision, cache, environment, token)
        elif hub_client.snapshot(cache, name, revision, stored):
            continue
        elif hub is not None:
            jobs[f"{kind} {name}"] = partial(_access, hub, stored, name)
        else:
            note = f"{kind} {name}: HF_HUB_OFFLINE is set, and it is not in the cache"
            offline.append(_or_neighbour(warns(note), kind, name))
    model = ModelFacts()
    # A dataset may be in the cache of processed datasets, so this alone says nothing.
    access = [result for result in offline if result.level == "fail"]
    deadline = (
        time.monotonic() + hub_client.HUB_SECONDS + 1
    )  # each request has its own, shorter deadline
    for key, answer in hub_client.together(jobs, deadline).items():
        if isinstance(answer, ModelFacts):
            model = answer
        elif isinstance(answer, Result):
            access.append(_or_neighbour(answer, *key.split(" ", 1)))
        elif key == "model":
            model = ModelFacts(note=f"the hub was not reached: {hub_client.reason(answer)}")
        else:
            note = f"{key}: the hub was not reached: {hub_client.reason(answer)}"
            access.append(_or_neighbour(warns(note), *key.split(" ", 1)))
    return model, tuple(access)


def _access(hub: hub_client.Hub, kind: str, name: str) -> Result:
    answer = hub.access(kind, name)
    error = hub_client.refusal(answer, f"{kind} {name}", None)
    if error is not None:
        return failed(error)
    if not answer.good:
        return warns(f"{kind} {name}: the hub answers {answer.status}")
    return passes(f"{kind} {name} may be fetched")


@INPUTS.check("adapter", ModelError)
def _adapter(inputs: Inputs) -> Result | None:
    path = inputs.spec.adapter.path
    if not path or not is_local(path):
        return None
    _require_adapter(path)
    return passes(f"{path} is an adapter")


@INPUTS.check("adapter_targets", SpecError)
def _adapter_targets(inputs: Inputs) -> Iterator[Result]:
    yield from missing_targets(inputs.spec, inputs.model)


@INPUTS.check("chat_template", ModelError)
def _chat_template(inputs: Inputs) -> Result | None:
    template = inputs.spec.model.chat_template
    if not template:
        return None
    _read_text(template, "the chat template")
    return passes(f"{template} can be read")


@INPUTS.check("rewards", RewardError)
def _rewards(inputs: Inputs) -> Iterator[Result]:
    for reward in inputs.spec.rewards:
        if reward.file:
            _require_python(reward.file)
            yield passes(f"{reward.file} is a file")
        elif reward.model and is_local(reward.model):
            read_folder(Path(reward.model))
            yield passes(f"{reward.model} is a model folder")


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
            raise ModelError(f"cannot read {what} {name}: it is not a file", "Name a text file")
        with open(name, "rb") as file:
            return file.read(TEXT_BYTES).decode()
    except OSError as error:
        raise ModelError(
            f"cannot read {what} {name}: {error.strerror or error}", "Fix its permissions"
        ) from error
    except UnicodeDecodeError:
        raise ModelError(f"cannot read {what} {name}: not UTF-8 text", "Save it as UTF-8") from None


def _require_python(name: str) -> None:
    """Refuse a reward file that is not Python. Only the worker can check whether it imports."""
    try:
        if not os.path.isfile(name):
            raise RewardError(f"cannot read {name}: it is not a file", "Name a *.py file")
        with warnings.catch_warnings(), open(name, "rb") as file:
            warnings.simplefilter("ignore")
            if len(code := file.read(REWARD_BYTES + 1)) <= REWARD_BYTES:
                ast.parse(code)
    except SyntaxError as error:
        raise RewardError(
            f"the reward file {name} does not import: line {error.lineno}: {error.msg}", "Fix it"
        ) from None
    except OSError as error:
        raise RewardError(
            f"cannot read {name}: {error.strerror or error}", "Fix its permissions"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RewardError(f"the reward file {name} does not import: {error}", "Fix it") from None


@INPUTS.check("data", DataError)
def _data(inputs: Inputs) -> Result:
    dataset = inputs.spec.dataset
    limit = dataset.max_samples if "[" not in dataset.split else None
    return _first_rows(inputs.spec, dataset.name, dataset.split, limit)


@INPUTS.check("evaluation_data", DataError)
def _evaluation_data(inputs: Inputs) -> Result | None:
    dataset = inputs.spec.dataset
    held_out = evaluation_set(inputs.spec)
    if held_out is None or held_out == (dataset.name, dataset.split):
        return None
    return _first_rows(inputs.spec, *held_out)


def _first_rows(spec: RunSpec, name: str, split: str, limit: int | None = None) -> Result:
    """Whether the first rows of a local dataset can be trained on."""
    if not is_local(name):
        return passes(f"{name} is on the hub, and is checked after it has been fetched")
    seen = look_at(Source(name, path=Path(name)), split, spec.dataset, spec.row.formats, limit)
    if seen.columns:
        require_columns(spec.rewards, seen.columns, f"{name}, split {split}")
    first = "its first row is" if seen.rows == 1 else f"its first {seen.rows} rows are"
    rows = f"{first} good" if seen.rows else "its rows are read by the worker only"
    kind = f"{seen.format.replace('_', '-')} data; " if seen.format else ""
    ignored = f"; not read: {seen.left_out}" if seen.left_out else ""
    return passes(f"{name}: {kind}{rows}{ignored}")


@INPUTS.check("output", OutputError)
def _output(inputs: Inputs) -> Result:
    require_writable(inputs.run_dir)
    return passes(f"{inputs.run_dir} can be written")


@INPUTS.check("disk", OutputError)
def _disk(inputs: Inputs) -> Result:
    """Whether the result and the checkpoints fit on the disk. For a moment there is one checkpoint
    more than are kept.
    """
    above = nearest_folder(inputs.run_dir)
    try:
        free = shutil.disk_usage(above).free
    except OSError as error:
        return warns(f"how much is free on {above} is not known: {error}")
    known = f"{gib(free)} are free on {above}"
    trained = trained_parameters(inputs.spec, inputs.model)
    if trained is None:
        return passes(f"{known}; what checkpoints take is not known")
    kept = (inputs.spec.training.save_total_limit or 1) + 1
    needed = trained * (STATE_BYTES * kept + WEIGHT_BYTES)
    evidence = f"{known}; the result and {kept} checkpoints take about {gib(needed)}"
    if free >= needed:
        return passes(evidence)
    return warns(evidence, "Lower training.save_total_limit, or free some space")


def trained_parameters(spec: RunSpec, model: ModelFacts) -> int | None:
    """The number of parameters that are trained and saved; None if the model does not say."""
    if spec.adapter.type == "none":
        return model.parameters
    if not model.linear or spec.adapter.path or spec.adapter.modules_to_save:
        return None
    targets = spec.adapter.targets
    wanted = [size for name, size in model.linear if targets == "all-linear" or name in targets]
    return sum(wanted) * spec.adapter.rank
