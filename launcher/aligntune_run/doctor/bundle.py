"""An archive for a bug report: doctor's findings and a run's files, without secrets or data."""

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
"""Bytes packed from the end of a log or of the events, and the maximum size of a record."""

DATA_KEYS = ("samples", "predictions", "prompts", "system_prompt", "completions", "messages")
"""Keys that hold rows of the user's data, or a model's output for them."""

QUOTING = ("RewardError", "DataError")
"""Errors whose text shows a sample."""

PREFIXES = (
    *("ALIGNTUNE_", "BNB_", "CUDA_", "DOCKER_", "HF_", "LD_", "NCCL_", "NVIDIA_", "OMP_", "PIP_"),
    *("PYTHON", "PYTORCH_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_", "UNSLOTH_", "UV_"),
    *("XDG_", "TMPDIR", "SSL_CERT_", "REQUESTS_CA_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""Variables that affect a run; no others are packed."""

README = """\
A bug report of aligntune-run, packed by `aligntune-run doctor --bundle`.

  doctor.json       every check, with its verdict
  host.json         this machine as the command sees it
  engine.json       what the container engine reports, without proxies, mirrors and labels
  images.json       our images on this machine
  versions.json     the versions in the locks
  environment.json  environment variables that affect a run
  run/run.json      the run's record
  run/spec.yaml     its spec
  run/events.jsonl  its events, the last 1 MiB
  run/train.log     what the trainer printed, the last 1 MiB

Files that did not exist are not packed.

Not packed: the model, checkpoints and data; samples, predictions, prompts and the system prompt;
the text of errors about the data or a reward, because it can quote them.

Removed: tokens and keys that are in your environment or look like one, passwords in addresses,
40-digit hashes other than model revisions, and your name in paths.

Check before you send it: train.log is the trainer's own output. It contains whatever your reward
functions or a library printed about your data. Names of models, datasets and files are not removed.
"""


def require_new(target: Path) -> None:
    """Refuse a file that exists, before any check runs.

    Raises:
        OutputError: it exists.
    """
    if os.path.lexists(target):
        raise OutputError(f"{target} already exists", "Choose another file with --bundle")


def pack(
    target: Path, found: Findings, diagnosis: Diagnosis, run: Path | None = None
) -> tuple[tuple[str, int], ...]:
    """Write the archive, readable only by its owner; return its files by name and size in bytes.

    Raises:
        OutputError: the file already exists, or cannot be written.
    """
    files = contents(found, diagnosis, run)
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        require_new(target)
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror}", "Choose another file"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, files)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise OutputError(
            f"cannot write {target}: {error.strerror}", "Choose another file"
        ) from error
    return tuple((name, len(content)) for name, content in files.items())


def contents(found: Findings, diagnosis: Diagnosis, run: Path | None = None) -> dict[str, bytes]:
    """The archive's files, by name, without anything that must not leave this machine."""
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
    """The run's files that are regular files in its folder; no link is followed."""
    read = {}
    for path in (run.record_file, run.spec, run.events, run.log):
        text = _end(path)
        if text is not None:
            read[path.name] = text
    return read


def _end(path: Path) -> str | None:
    """The last :data:`LIMIT` bytes of a regular file, in whole lines; None for anything else."""
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
    # Half a line can contain half a secret, which no pattern recognises.
    whole = content.partition(b"\n")[2] if begin else content
    return whole.decode(errors="replace")


def _cleaned(name: str, text: str, redactor: Redactor) -> str:
    """A run's file without data and secrets, parsed into values if possible."""
    try:
        if name == "run.json":
            return _json(redactor.values(_without_data(json.loads(text))))
        if name == "spec.yaml":
            values = redactor.values(_without_data(yaml.safe_load(text)))
            return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    except (ValueError, yaml.YAMLError, RecursionError):
        return f"{LEFT_OUT}: it cannot be read, or it is larger than {LIMIT} bytes\n"
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
    """The text of errors that show a sample; it appears in more than one file."""
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
    """The hub token in the caller's file, to be removed."""
    if found.host.token is None:
        return ()
    try:
        return tuple(found.host.token.read_text(errors="replace").split())
    except OSError:
        return ()


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that affect a run; for secret ones, such as a tracker's key, only the name."""
    kept = {name: value for name, value in environment.items() if name.upper().startswith(PREFIXES)}
    return dict(sorted(kept.items())) | {
        name: "(set)" for name in sorted(environment) if SECRET_NAME.search(name)
    }


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n"


def _write(file: Any, files: Mapping[str, bytes]) -> None:
    """Write a gzipped tar whose bytes depend only on its contents."""
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
