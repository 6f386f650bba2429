"""What ``nvidia-smi`` reports about GPUs, if NVIDIA's driver library is unavailable.

It reports less: no MIG slices, no CUDA version, and not who uses a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from aligntune_run.host.resources import memory_available, memory_total
from aligntune_run.host.types import Gpu, Gpus, joined
from aligntune_run.subprocesses import ask

WSL = Path("/usr/lib/wsl/lib")
"""Where WSL has it, on the path or not."""

TIMEOUT = 5.0
"""Its time limit in seconds: a driver that does not stay loaded takes some to start."""

QUERY = "index,uuid,name,compute_cap,memory.total,memory.free,driver_version,mig.mode.current"

SIZE = r"\d{1,9}|\[N/A\]|\[Not Supported\]"
LINE = re.compile(
    r"(?P<index>\d{1,4}), (?P<uuid>GPU-[\w-]{1,80}), (?P<name>[^,\x00-\x1f\x7f]{1,96}),"
    rf" (?P<major>\d{{1,3}})\.(?P<minor>\d{{1,3}}), (?P<memory>{SIZE}), (?P<free>{SIZE}),"
    r" (?P<driver>[\d.]{1,40}), (?P<mig>Enabled|Disabled|\[N/A\]|\[Not Supported\])",
    re.ASCII,
)
"""One GPU: sizes in MiB, or ``[N/A]`` where it has no memory of its own."""


def ask_nvidia_smi(path: str) -> Gpus:
    """Every GPU that it reports; nothing, without a note, if the program is not installed.

    Args:
        path: folders with programs, as in ``PATH``.
    """
    program = shutil.which("nvidia-smi", path=os.pathsep.join((path, str(WSL))))
    if program is None:
        return Gpus()
    words = [program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    done = ask(words, timeout=TIMEOUT)
    if done.err:
        return Gpus(note=f"nvidia-smi fails: {done.err}")
    found: list[Gpu] = []
    notes: list[str] = []
    driver = None
    for line in filter(None, map(str.strip, done.out.splitlines())):
        match = LINE.fullmatch(line)
        if match is None:
            notes.append(f"nvidia-smi says {line[:120]!r}")
        elif match["mig"] == "Enabled":
            notes.append(f"GPU {match['index']} has MIG on: nvidia-smi does not tell its slices")
        else:
            found.append(_gpu(match))
        driver = match["driver"] if match else driver
    if not done.out.strip():
        notes.append(f"nvidia-smi says nothing and ends with {done.code}")
    # A program that says nonsense says a lot of it.
    return Gpus(tuple(found), joined(*notes[:3]), driver, source="nvidia-smi" if found else "")


def _gpu(match: re.Match[str]) -> Gpu:
    own = match["memory"].isdecimal() and match["free"].isdecimal()
    return Gpu(
        index=int(match["index"]),
        uuid=match["uuid"],
        name=match["name"].strip(),
        capability=(int(match["major"]), int(match["minor"])),
        memory=int(match["memory"]) << 20 if own else memory_total(),
        free=int(match["free"]) << 20 if own else memory_available(),
    )
