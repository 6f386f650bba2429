"""What NVIDIA's driver library reports about GPUs: names, memory, users, MIG slices.

A GPU that does not answer is left out with a note; unknown facts of the others are empty. Nothing
here raises, and without the library ``pynvml`` is not imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aligntune_run.host.resources import memory_available, memory_total
from aligntune_run.host.types import Gpu, Gpus, joined

LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
"""Where the library is: on the loader's path, or where WSL puts it."""


def ask_nvml() -> Gpus:
    """Every GPU that the driver lets us read, whatever ``CUDA_VISIBLE_DEVICES`` says."""
    failed = _load()
    if failed:
        return Gpus(note=failed)
    with warnings.catch_warnings():
        # An older package of the same name warns about itself.
        warnings.simplefilter("ignore")
        import pynvml as nvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        # Where the driver's programs are installed and it is not loaded, there may well be no GPU.
        asleep = isinstance(error, nvml.NVMLError_DriverNotLoaded)
        return Gpus(note=f"NVML does not start: {error}", failed=not asleep)
    try:
        return _Driver(nvml).read()
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _load() -> str:
    """Load the library, which pynvml then finds by its name; the reason if it does not load."""
    reason = ""
    for library in LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError as error:
            if library not in str(error) or "no such file" not in str(error).lower():
                reason = f"NVML does not load: {error}"
        else:
            return ""
    return reason or "no NVIDIA driver, as there is no libnvidia-ml.so.1"


class _Driver:
    """The driver, through a started ``pynvml``."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        # pynvml raises the latter where a name is not UTF-8.
        self.failures = (nvml.NVMLError, UnicodeDecodeError)
        self.notes: list[str] = []

    def read(self) -> Gpus:
        driver = self._maybe(self.nvml.nvmlSystemGetDriverVersion)
        number = self._maybe(self.nvml.nvmlSystemGetCudaDriverVersion)
        cuda = f"{number // 1000}.{number % 1000 // 10}" if number else None
        try:
            count = self.nvml.nvmlDeviceGetCount()
        except self.nvml.NVMLError as error:
            note = f"NVML does not count the GPUs: {error}"
            return Gpus((), note, driver, cuda, failed=True)
        if not count:
            self.notes.append("NVML finds no GPU")
        found: list[Gpu] = []
        for index in range(count):
            with self._left_out(f"GPU {index}"):
                found += self._gpus(index)
        note, failed = joined(*self.notes), len(found) == 0 < count
        return Gpus(tuple(found), note, driver, cuda, "NVML", failed)

    def _gpus(self, index: int) -> list[Gpu]:
        """The GPU of that number, or its slices where it has MIG on."""
        nvml = self.nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        mode = self._maybe(nvml.nvmlDeviceGetMigMode, handle)
        if not mode or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return [self._gpu(handle, index, capability)]
        parent = nvml.nvmlDeviceGetUUID(handle)
        found: list[Gpu] = []
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            # Of as many slices as there could be, most are not there.
            with contextlib.suppress(nvml.NVMLError_NotFound):
                part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                with self._left_out(f"slice {number} of GPU {index}"):
                    found.append(self._gpu(part, index, capability, parent))
        if not found:
            self.notes.append(f"GPU {index} has MIG on and no slice")
        return found

    def _gpu(
        self, handle: Any, index: int, capability: tuple[int, int], parent: str | None = None
    ) -> Gpu:
        memory, free = self._memory(handle)
        return Gpu(
            index=index,
            uuid=self.nvml.nvmlDeviceGetUUID(handle),
            name="".join(filter(str.isprintable, self.nvml.nvmlDeviceGetName(handle))),
            capability=capability,
            memory=memory,
            free=free,
            users=tuple(map(_user, self._pids(handle))),
            parent=parent,
        )

    def _memory(self, handle: Any) -> tuple[int, int]:
        """Bytes in all, and free."""
        nvml = self.nvml
        # Drivers before R510 know the first form only.
        memory = self._maybe(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
        try:
            memory = memory or nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError_NotSupported:
            return memory_total(), memory_available()  # it shares the machine's, as on GB10
        return int(memory.total), int(memory.free)

    def _pids(self, handle: Any) -> list[int]:
        processes = self._maybe(self.nvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
        return [process.pid for process in processes or ()]

    def _maybe(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call answers; None if the driver or the GPU does not know."""
        try:
            return call(*arguments)
        except self.failures:
            return None

    @contextlib.contextmanager
    def _left_out(self, what: str) -> Iterator[None]:
        try:
            yield
        except self.failures as error:
            self.notes.append(f"{what} is left out: {error}")


def _user(pid: int) -> str:
    """A process as text, with its name if it is visible to us."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return f"pid {pid}"
    # A process sets its own name, which may hold terminal escapes.
    return f"{''.join(filter(str.isprintable, name))} (pid {pid})"
