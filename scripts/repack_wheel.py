"""Repack a wheel without some of its files: ``python repack_wheel.py WHEEL FOLDER PATTERN ...``.

The copy in FOLDER has the same name and a RECORD of the files that stay. A pattern is a glob over
the whole path; one that begins with ``!`` names files that stay although another pattern has them.
A pattern that matches no file is an error, so that none outlives the layout it was written for.
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path


def main() -> None:
    wheel, folder, *patterns = sys.argv[1:]
    try:
        left_out = repack(Path(wheel), Path(folder), patterns)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        sys.exit(f"{Path(wheel).name}: {error}")
    print(f"{len(left_out)} files of {sum(left_out.values()) / 1e6:.1f} MB")


def repack(wheel: Path, folder: Path, patterns: Sequence[str]) -> dict[str, int]:
    """Write the smaller copy, and return what it lacks: sizes in bytes by path.

    Raises:
        ValueError: a pattern matches nothing, or the wheel has no RECORD.
    """
    with zipfile.ZipFile(wheel) as source:
        files = [entry for entry in source.infolist() if not entry.is_dir()]
        left_out = select((entry.filename for entry in files), patterns)
        staying = [entry for entry in files if entry.filename not in left_out]
        # By the wheel's format RECORD names every file, and comes last in the archive.
        record = next((entry for entry in staying if is_record(entry.filename)), None)
        if record is None:
            raise ValueError("it has no RECORD, or a pattern leaves it out")
        rows = []
        with zipfile.ZipFile(folder / wheel.name, "w", zipfile.ZIP_DEFLATED) as copy:
            for entry in staying:
                if entry is not record:
                    content = source.read(entry)
                    copy.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
                    rows.append((entry.filename, f"sha256={digest(content)}", len(content)))
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([*rows, (record.filename, "", "")])
            copy.writestr(record, text.getvalue(), zipfile.ZIP_DEFLATED)
    return {entry.filename: entry.file_size for entry in files if entry.filename in left_out}


def select(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """The names that patterns leave out."""
    names = list(names)
    matches = {
        pattern: {name for name in names if fnmatchcase(name, pattern.removeprefix("!"))}
        for pattern in patterns
    }
    if idle := [pattern for pattern, found in matches.items() if not found]:
        raise ValueError(f"no file matches {', '.join(idle)}")
    staying = {name for pattern in matches if pattern[0] == "!" for name in matches[pattern]}
    return {name for found in matches.values() for name in found} - staying


def is_record(name: str) -> bool:
    return name.endswith(".dist-info/RECORD") and name.count("/") == 1


def digest(content: bytes) -> str:
    """A hash as RECORD has it: base64 for URLs, without padding."""
    return urlsafe_b64encode(sha256(content).digest()).decode().rstrip("=")


if __name__ == "__main__":
    main()
