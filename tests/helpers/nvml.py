"""GPUs that are not there: a stand-in for NVIDIA's driver library, compiled from ``nvml.c``.

A program that is started with the variables of :func:`stand_in` finds the GPUs it was told of
through the real ``pynvml``. Told again in the same folder, the next program finds others.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.needs import lacking

LIBRARY = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("nvml.c")
GIB = 1 << 30

# What a call may answer, by NVML's numbers.
NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
VERSION_MISMATCH = 18


@dataclass(frozen=True)
class Device:
    """A GPU, or a slice of one, that the stand-in tells of; sizes in bytes.

    Attributes:
        uuid: made up from its number where empty, see :func:`uuid`.
        pids: of the processes that compute on it.
        slices: the GPU's MIG slices; None where MIG is off.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    capability: tuple[int, int] = (9, 0)
    memory: int = 80 * GIB
    free: int = 79 * GIB
    uuid: str = ""
    pids: tuple[int, ...] = ()
    slices: tuple[Device, ...] | None = None


def uuid(number: int) -> str:
    """The UUID of the stand-in's GPU of that number, where the test gave it none."""
    return f"GPU-{number:08x}-0000-4000-8000-000000000000"


def stand_in(
    folder: Path,
    gpus: int | Sequence[Device] = 1,
    *,
    driver: str = "580.65.06",
    cuda: int = 13000,
    fail: Mapping[str, int] | None = None,
    old: bool = False,
) -> dict[str, str]:
    """Have programs find these GPUs; skips the test where there is no C compiler.

    Args:
        folder: where to note what the library tells, in ``nvml.txt``.
        gpus: how many H100s, or which GPUs.
        driver: the driver's version.
        cuda: the newest CUDA that it runs, in NVML's way: 13000 is 13.0.
        fail: by function of NVML, the code that it answers; ``nvmlDeviceGetName:1`` for one device
            only. Devices are counted with their slices: a GPU, its slices, the next GPU.
        old: leave out the functions that drivers before R510 do not have.

    Returns:
        What to lay over the program's environment.
    """
    lines = [f"driver|{driver}", f"cuda|{cuda}"]
    devices = [Device() for _ in range(gpus)] if isinstance(gpus, int) else gpus
    processes: list[str] = []
    count = 0

    def tell(device: Device, name: str, parent: int) -> int:
        nonlocal count
        memory = f"{device.memory}|{device.free}|{int(device.slices is not None)}"
        major, minor = device.capability
        lines.append(f"device|{parent}|{name}|{device.name}|{major}|{minor}|{memory}")
        processes.extend(f"process|{count}|{pid}" for pid in device.pids)
        count += 1
        return count - 1

    for number, device in enumerate(devices):
        whole = tell(device, device.uuid or uuid(number), -1)
        for part, one in enumerate(device.slices or ()):
            tell(one, one.uuid or f"MIG-{number:04x}{part:04x}-0000-4000-8000-000000000000", whole)
    lines += processes
    for function, code in (fail or {}).items():
        name, _, which = function.partition(":")
        lines.append(f"fail|{name}|{which or -1}|{code}")
    facts = folder / "nvml.txt"
    facts.write_bytes(os.fsencode("".join(f"{line}\n" for line in lines)))
    paths = [str(library(old).parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": ":".join(paths), "NVML_STAND_IN": str(facts)}


@functools.cache
def library(old: bool = False) -> Path:
    """The stand-in, compiled once in a folder that goes away with us."""
    compiler = shutil.which("cc")
    if compiler is None:
        lacking("there is no C compiler (cc), which makes the stand-in for NVML")
    folder = tempfile.mkdtemp(prefix="nvml-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = Path(folder) / LIBRARY
    how = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}"]
    words = [compiler, *how, *(["-DOLD"] if old else []), "-o", str(made), str(SOURCE)]
    subprocess.run(words, check=True)
    return made
