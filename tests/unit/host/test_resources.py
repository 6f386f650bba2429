"""Processors, memory and disk, on machines made of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aligntune_run.host import resources
from aligntune_run.host.probe import probe
from aligntune_run.host.resources import (
    computes_bf16,
    cpu_count,
    disk_free,
    memory_available,
    memory_total,
)
from aligntune_run.host.types import Engine

GIB = 1 << 30
PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
CGROUP = "proc/self/cgroup"

Machine = Callable[[dict[str, str]], None]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Fill ``/proc`` and ``/sys/fs/cgroup`` of a machine with 64 processors."""
    monkeypatch.setattr(resources, "PROC", tmp_path / "proc")
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    def fill(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")

    return fill


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {CGROUP: "0::/"},
        {CGROUP: "0::/user.slice", "cgroup/user.slice/memory.max": "max"},
        {CGROUP: "4:memory:/", "cgroup/memory/memory.limit_in_bytes": "9223372036854771712"},
        {CGROUP: "0::/mine", "cgroup/other/memory.max": str(GIB)},
    ],
    ids=["no cgroups", "top", "no limit", "no limit, v1", "another's limit"],
)
def test_without_a_limit_all_the_memory_is_ours(texts: dict[str, str], files: Machine) -> None:
    files(texts)
    assert memory_total() == PHYSICAL


@pytest.mark.parametrize(
    "texts",
    [
        {CGROUP: "0::/pod/box", "cgroup/pod/box/memory.max": f"{GIB}"},
        {
            CGROUP: "0::/pod/box",
            "cgroup/pod/box/memory.max": "max",
            "cgroup/pod/memory.max": f"{GIB}",
        },
        {CGROUP: "0::/", "cgroup/memory.max": f"{GIB}"},
        {
            CGROUP: "4:memory:/pod\n0::/",
            "cgroup/memory/pod/memory.limit_in_bytes": f"{GIB}",
        },
        {
            CGROUP: "4:memory:/docker/of-the-host",
            "cgroup/memory/memory.limit_in_bytes": f"{GIB}",
        },
    ],
    ids=["own", "above", "in a container", "v1", "v1 in a container"],
)
def test_a_cgroup_s_limit_is_the_memory_there_is(texts: dict[str, str], files: Machine) -> None:
    files({**texts, "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 999999999999 kB"})
    assert memory_total() == GIB
    assert memory_available() == GIB


def test_available_memory_is_what_the_kernel_says(files: Machine) -> None:
    files({"proc/meminfo": "MemTotal: 999 kB\nMemFree: 1 kB\nMemAvailable: 512 kB"})
    assert memory_available() == 512 << 10


@pytest.mark.parametrize(
    ("texts", "cpus"),
    [
        ({}, 64),
        ({CGROUP: "0::/pod", "cgroup/pod/cpu.max": "max 100000"}, 64),
        ({CGROUP: "0::/pod", "cgroup/pod/cpu.max": "400000 100000"}, 4),
        ({CGROUP: "0::/pod", "cgroup/pod/cpu.max": "150000 100000"}, 2),
        ({CGROUP: "0::/pod", "cgroup/pod/cpu.max": "1000 100000"}, 1),
        ({CGROUP: "0::/pod", "cgroup/pod/cpu.max": "12800000 100000"}, 64),
        (
            {
                CGROUP: "2:cpu,cpuacct:/pod",
                "cgroup/cpu/pod/cpu.cfs_quota_us": "800000",
                "cgroup/cpu/pod/cpu.cfs_period_us": "100000",
                "cgroup/cpu/cpu.cfs_quota_us": "-1",
                "cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            8,
        ),
    ],
)
def test_processors_are_as_many_as_the_quota_lets_run(
    texts: dict[str, str], cpus: int, files: Machine
) -> None:
    files(texts)
    assert cpu_count() == cpus


@pytest.mark.parametrize(
    ("cpuinfo", "native"),
    [
        ("processor: 0\nflags\t\t: fpu sse avx512f avx512_bf16 amx_tile\n", True),
        ("processor: 0\nflags\t\t: fpu sse avx512f avx512_bf16x\n", False),
        ("processor: 0\nFeatures\t: fp asimd bf16\n", False),
    ],
)
def test_bf16_is_native_where_torch_takes_it_to_be(
    cpuinfo: str, native: bool, files: Machine
) -> None:
    assert not computes_bf16()  # there is no such file
    files({"proc/cpuinfo": cpuinfo})
    assert computes_bf16() is native


def test_free_disk_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    there = os.statvfs(tmp_path)
    free = disk_free(tmp_path / "not" / "made" / "yet")
    assert free is not None
    assert 0 < free <= there.f_blocks * there.f_frsize


def test_free_disk_below_a_file_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert disk_free(tmp_path / "file" / "below") is None


def test_a_host_knows_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNTUNE_CACHE_DIR", str(tmp_path / "cache"))
    host = probe(Engine(False), ())
    assert host.cpus == cpu_count() > 0
    assert host.memory == memory_total() > 0
    assert host.bf16 is computes_bf16()
    assert host.cache_free is not None
    assert not (tmp_path / "cache").exists()
