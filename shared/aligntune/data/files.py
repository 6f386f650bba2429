"""Which files of a local dataset are read, which splits they belong to, and which are left out."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aligntune.errors import DataError, shown
from aligntune.spec.paths import COMPRESSED, DATA_SUFFIXES

MOST_ENTRIES = 100_000
"""The most files and folders that are searched for data."""

SPLIT_REMEDY = "Set dataset.split, or dataset.eval_split for the evaluation set"

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the names of files and folders, as in ``datasets``
(https://huggingface.co/docs/datasets/repository_structure)."""

NAMED = 3
"""Files of a kind that a message names."""


@dataclass(frozen=True)
class Files:
    """The files of a split, with names for messages, and what else the folder contains."""

    read: list[tuple[Path, str]]
    left_out: str = ""


def find_files(path: Path | None, name: str, split: str) -> Files | None:
    """The files of a local dataset's split; None for a dataset of ``save_to_disk``.

    Args:
        path: a file or folder.
        name: its name for messages.
        split: name of the split, without a slice.

    Raises:
        DataError: there is no such dataset or split, or it cannot be read.
    """
    if path is None or not os.path.exists(path):
        raise DataError(f"no such dataset: {name}", "Check the path")
    if os.path.isdir(path):
        if not os.access(path, os.R_OK | os.X_OK):
            raise _unreadable(name)
        return None if is_saved(path) else _of_folder(path, name, split)
    if not data_suffix(path):
        raise DataError(
            f"{name}: {path.suffix or 'a file without a suffix'} is not a known format",
            f"Use one of {', '.join(DATA_SUFFIXES)}, and {', '.join(COMPRESSED)} of texts",
        )
    if split not in ("train", ""):
        raise DataError(f"{name} is one file and has no split {split!r}", "Remove the split")
    return Files([(path, path.name)])


def is_saved(folder: Path) -> bool:
    """Whether a folder is a dataset of ``save_to_disk``."""
    return any(os.path.exists(folder / name) for name in ("dataset_info.json", "dataset_dict.json"))


def data_suffix(path: Path) -> str:
    """The suffix that tells the format: ``.jsonl`` of ``a.jsonl.gz``; empty if none does."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        return suffix if suffix in DATA_SUFFIXES else ""
    inner = Path(path.stem).suffix.lower()
    # Parquet and Arrow files are read in any order, which a compressed file does not allow.
    return inner if inner in DATA_SUFFIXES and inner not in (".parquet", ".arrow") else ""


def no_split(name: str, split: str, there: Iterable[str]) -> DataError:
    """The error for a split that a dataset does not have."""
    known = shown(", ".join(there), 200)
    return DataError(f"{name} has no split {split!r}; splits: {known}", SPLIT_REMEDY)


def _unreadable(name: str) -> DataError:
    return DataError(
        f"cannot read {name}: Permission denied",
        "Make it readable for the user that runs the training",
    )


def _of_folder(folder: Path, name: str, split: str) -> Files:
    by_split: dict[str, list[Path]] = defaultdict(list)
    others: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(_walk(folder, name)):
        inside = path.relative_to(folder)
        if path.name.startswith("."):
            others["hidden"].append(path)
        elif not os.path.isfile(path):
            others["without content (broken links or devices)"].append(path)
        elif data_suffix(path):
            by_split[_split_of(inside, name)].append(path)
        else:
            others[path.suffix.lower() or "without a suffix"].append(path)
    if not by_split:
        there = f"; it contains {_counts(others, folder)}" if others else ""
        raise DataError(
            f"{name} contains no {', '.join(DATA_SUFFIXES)} files{there}",
            "Use a file or another folder",
        )
    unnamed = by_split.pop("", [])
    if unnamed and by_split:
        raise DataError(
            f"{name} contains splits ({', '.join(sorted(by_split))}), and files whose names match "
            f"no split: {_few([_called(path, folder) for path in unnamed])}",
            "Move these files away, or set dataset.name to the file to train on",
        )
    splits = by_split or {"train": unnamed}
    wanted = next((main for main, also in SPLIT_NAMES.items() if split in also), split)
    if wanted not in splits:
        raise no_split(name, split, sorted(splits))
    others |= {f"of split {other}": paths for other, paths in splits.items() if other != wanted}
    return Files(
        [(path, _called(path, folder)) for path in splits[wanted]], _counts(others, folder)
    )


def _walk(folder: Path, name: str) -> Iterator[Path]:
    """The files below a folder, links followed, and hidden files and folders unopened."""
    waiting, left = [folder], MOST_ENTRIES
    opened = {os.path.realpath(folder)}  # a link may lead back to a folder above it
    while waiting:
        place = waiting.pop()
        try:
            entries = os.scandir(place)
        except PermissionError:
            raise _unreadable(f"{name}/{_called(place, folder)}") from None
        except OSError:
            continue  # deleted meanwhile
        with entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    raise DataError(
                        f"{name} contains more than {MOST_ENTRIES:,} files and folders",
                        "Use the folder that contains the data",
                    )
                path = Path(entry.path)
                if entry.name.startswith(".") or not entry.is_dir():
                    yield path
                elif (real := os.path.realpath(path)) not in opened:
                    opened.add(real)
                    waiting.append(path)


def _split_of(path: Path, name: str) -> str:
    """The split whose word is in the name of a file or of a folder above it; empty if none is.

    Words are runs of letters: ``gsm8k_train_v2`` and ``train-00000-of-00002`` have ``train``,
    ``contest`` does not have ``test``.

    Raises:
        DataError: a name has words of two splits.
    """
    for part in (path.stem, *reversed(path.parts[:-1])):
        words = set(re.findall("[a-z]+", part.lower()))
        splits = [split for split, also in SPLIT_NAMES.items() if words.intersection(also)]
        if len(splits) > 1:
            raise DataError(
                f"{name}: the name {shown(path)} has the words of two splits, "
                f"{' and '.join(splits)}",
                "Rename it, or set dataset.name to the file to train on",
            )
        if splits:
            return splits[0]
    return ""


def _counts(files: Mapping[str, Sequence[Path]], folder: Path) -> str:
    return counted({kind: [_called(path, folder) for path in files[kind]] for kind in files})


def counted(names: Mapping[str, Sequence[str]]) -> str:
    """How many files there are of each kind, and the names of a few."""
    kinds = sorted(names.items())
    return "; ".join(f"{len(some)} {kind} ({_few(some)})" for kind, some in kinds)


def by_suffix(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of files by what tells their kind."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[Path(name).suffix.lower() or "without a suffix"].append(name)
    return found


def _few(names: Sequence[str]) -> str:
    shown_names = ", ".join(names[:NAMED])
    return f"{shown_names}, ..." if len(names) > NAMED else shown_names


def _called(path: Path, folder: Path) -> str:
    return shown(path.relative_to(folder))
