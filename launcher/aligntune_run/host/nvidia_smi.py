"""What ``nvidia-smi`` tells of the GPUs, where NVIDIA's driver library is not to be had.

It tells less: no MIG slices, no CUDA version, and not who uses a GPU.
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
"""Seconds it is given, as somebody waits: a driver that does not stay loaded takes some of them."""

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
    """Every GPU that it tells of; nothing, without a note, where there is no such program.

    Args:
        path: where programs are looked for, as in ``PATH``.
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
        told = LINE.fullmatch(line)
        if told is None:
            notes.append(f"nvidia-smi says {line[:120]!r}")
        elif told["mig"] == "Enabled":
            notes.append(f"GPU {told['index']} has MIG on: nvidia-smi does not tell its slices")
        else:
            found.append(_gpu(told))
        driver = told["driver"] if told else driver
    if not done.out.strip():
        notes.append(f"nvidia-smi says nothing and ends with {done.code}")
    # A program that says nonsense says a lot of it.
    return Gpus(tuple(found), joined(*notes[:3]), driver, source="nvidia-smi" if found else "")


def _gpu(told: re.Match[str]) -> Gpu:
    own = told["memory"].isdecimal() and told["free"].isdecimal()
    return Gpu(
        index=int(told["index"]),
        uuid=told["uuid"],
        name=told["name"].strip(),
        capability=(int(told["major"]), int(told["minor"])),
        memory=int(told["memory"]) << 20 if own else memory_total(),
        free=int(told["free"]) << 20 if own else memory_available(),
    )
