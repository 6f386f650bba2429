"""An archive for a bug report: what doctor saw and what a run left, without secrets and data."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir
from aligntune_run.doctor.diagnose import Diagnosis
from aligntune_run.doctor.probe import Findings
from aligntune_run.doctor.redact import LEFT_OUT, SECRET_NAME, Redactor
from aligntune_run.host.caches import home
from aligntune_run.images import recipes

LIMIT = 2**20
"""Bytes of the end of a log or of the events that are packed, and of a record at most."""

DATA_KEYS = ("samples", "predictions", "prompts", "system_prompt", "completions", "messages")
"""What holds rows of the user's data, or what a model made of them."""

QUOTING = ("RewardError", "DataError")
"""Errors of which the words show a sample."""

PREFIXES = (
    *("ALIGNTUNE_", "BNB_", "CUDA_", "DOCKER_", "HF_", "LD_", "NCCL_", "NVIDIA_", "OMP_", "PIP_"),
    *("PYTHON", "PYTORCH_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_", "UNSLOTH_", "UV_"),
    *("XDG_", "TMPDIR", "SSL_CERT_", "REQUESTS_CA_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""Variables that change how a run goes; no others are packed."""

README = """\
A bug report of aligntune-run: what `aligntune-run doctor --bundle` packed.

  doctor.json       every check, with its verdict
  host.json         this machine as the command sees it
  engine.json       what the container engine says of itself, without proxies, mirrors and labels
  images.json       our images that are here
  versions.json     the stacks that the locks name
  environment.json  variables that change how a run goes
  run/run.json      the record of the run
  run/spec.yaml     its spec
  run/events.jsonl  its events, the last 1 MiB
  run/train.log     what the trainer printed, the last 1 MiB

Of these only what was there is packed.

Left out: the model, checkpoints and data; samples, predictions, prompts and the system prompt; what
an error about the data or a reward says, as it may quote them.

Taken out: tokens and keys that are in your environment or look like one, passwords in addresses,
40-digit hashes outside of model revisions, and your name in paths.

See to it yourself: train.log is the trainer's own output. What your reward functions or a library
printed of your data is in it. Names of models, datasets and files are not taken out.
"""


def require_new(target: Path) -> None:
    """Refuse a file that is there, before anything is looked at.

    Raises:
        OutputError: it is there.
    """
    if os.path.lexists(target):
        raise OutputError(f"{target} is there already", "Name another file with --bundle")


def pack(
    target: Path, found: Findings, diagnosis: Diagnosis, run: Path | None = None
) -> tuple[tuple[str, int], ...]:
    """Write the archive, for its owner alone to read; what it holds, by name and size in bytes.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    files = contents(found, diagnosis, run)
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        require_new(target)
        raise
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}", "Name another") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, files)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise OutputError(f"cannot write {target}: {error.strerror}", "Name another") from error
    return tuple((name, len(content)) for name, content in files.items())


def contents(found: Findings, diagnosis: Diagnosis, run: Path | None = None) -> dict[str, bytes]:
    """What goes into the archive, by name, with everything taken out that must not leave."""
    left = RunDir(run.absolute()) if run else None
    read = {} if left is None else _read(left)
    redactor = Redactor(
        found.environment,
        secrets=_token(found),
        home=home(),
        private=_quotes(read),
    )
    files: dict[str, Any] = {
        "doctor.json": diagnosis.to_dict(),
        "host.json": asdict(found.host),
        "engine.json": found.engine,
        "images.json": [asdict(one) for one in found.listed],
        "versions.json": {f"{one.backend}/{one.flavour}": one.versions for one in recipes()},
        "environment.json": _variables(found.environment),
    }
    made = {name: _json(redactor.values(values)) for name, values in files.items()}
    made |= {f"run/{name}": _cleaned(name, text, redactor) for name, text in read.items()}
    return {"README.txt": README.encode(), **{name: text.encode() for name, text in made.items()}}


def _read(run: RunDir) -> dict[str, str]:
    """The run's own files, as far as they are plain files in its folder; no link is followed."""
    read = {}
    for path in (run.record_file, run.spec, run.events, run.log):
        text = _end(path)
        if text is not None:
            read[path.name] = text
    return read


def _end(path: Path) -> str | None:
    """The last :data:`LIMIT` bytes of a plain file, from a whole line on; None for aught else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        begin = max(status.st_size - LIMIT, 0)
        file.seek(begin)
        content = file.read(LIMIT)
    # Half a line may hold the half of a secret that no pattern knows.
    whole = content.partition(b"\n")[2] if begin else content
    return whole.decode(errors="replace")


def _cleaned(name: str, text: str, redactor: Redactor) -> str:
    """A run's file, without data and secrets; as values where it can be read as such."""
    try:
        if name == "run.json":
            return _json(redactor.values(_without_data(json.loads(text))))
        if name == "spec.yaml":
            values = redactor.values(_without_data(yaml.safe_load(text)))
            return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    except (ValueError, yaml.YAMLError, RecursionError):
        return f"{LEFT_OUT}: it cannot be read, or is larger than {LIMIT} bytes\n"
    if name == "events.jsonl":
        return "".join(_event(line, redactor) for line in text.splitlines())
    return redactor.text(text)


def _event(line: str, redactor: Redactor) -> str:
    try:
        values = redactor.values(_without_data(json.loads(line)))
    except (ValueError, RecursionError):
        return f"{LEFT_OUT}: no event\n"
    return json.dumps(values, ensure_ascii=False) + "\n"


def _without_data(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {
            name: LEFT_OUT if name in DATA_KEYS and one else _without_data(one)
            for name, one in values.items()
        }
    return [_without_data(one) for one in values] if isinstance(values, list) else values


def _quotes(read: Mapping[str, str]) -> set[str]:
    """The words of errors that show a sample; they are told in more than one of the files."""
    found = set()
    for text in (read.get("run.json", ""), *read.get("events.jsonl", "").splitlines()):
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(text)
            values = values if isinstance(values, dict) else {}
            error = values.get("error")
            for one in (values, error if isinstance(error, dict) else {}):
                if one.get("kind") in QUOTING and isinstance(one.get("what"), str):
                    found.add(one["what"])
    return found


def _token(found: Findings) -> tuple[str, ...]:
    """The hub token in the caller's file, to be looked for."""
    if found.host.token is None:
        return ()
    try:
        return tuple(found.host.token.read_text(errors="replace").split())
    except OSError:
        return ()


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that change how a run goes; of others that may, as a tracker's key, the name alone."""
    kept = {name: value for name, value in environment.items() if name.upper().startswith(PREFIXES)}
    return dict(sorted(kept.items())) | {
        name: "(set)" for name in sorted(environment) if SECRET_NAME.search(name)
    }


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n"


def _write(file: Any, files: Mapping[str, bytes]) -> None:
    """A tar in gzip of which the bytes depend on nothing but what it holds."""
    with (
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, content in _members(files):
            archive.addfile(name, io.BytesIO(content))


def _members(files: Mapping[str, bytes]) -> Iterable[tuple[tarfile.TarInfo, bytes]]:
    for name, content in files.items():
        member = tarfile.TarInfo(f"aligntune-report/{name}")
        member.size, member.mode = len(content), 0o600
        yield member, content
