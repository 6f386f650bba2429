"""CUDA_VISIBLE_DEVICES is read as CUDA reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.nvml import GIB

from aligntune_run.host.gpus import visible
from aligntune_run.host.types import Gpu


def gpu(index: int, uuid: str, parent: str | None = None) -> Gpu:
    return Gpu(index, uuid, "H100", (9, 0), 80 * GIB, 79 * GIB, parent=parent)


MACHINE = (
    gpu(0, "GPU-aaaa1111"),
    gpu(1, "GPU-aaaa2222"),
    gpu(2, "MIG-bbbb1111", "GPU-cccc1111"),
    gpu(2, "MIG-bbbb2222", "GPU-cccc1111"),
)


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (None, "0123"),
        ("0", "0"),
        ("1,0", "10"),
        (" 1 , 0 ", "10"),
        ("+1", "1"),
        ("1st,0", "10"),
        ("2", "2"),
        ("GPU-aaaa1", "0"),
        ("GPU-aaaa2222,GPU-aaaa1111", "10"),
        ("MIG-bbbb2222", "3"),
        ("MIG-bbbb2,GPU-aaaa2", "31"),
        ("", ""),
        ("-1", ""),
        ("NoDevFiles", ""),
        ("0,-1,1", "0"),
        ("0,7,1", "0"),
        ("0,,1", "0"),
        ("7,0", ""),
        ("0,GPU-aaaa2222", "0"),
        ("GPU-aaaa2222,0", "1"),
        ("GPU-aaaa", ""),
        ("GPU-dddd", ""),
        ("0,1,0", ""),
        ("GPU-aaaa1,GPU-aaaa1111", ""),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(wanted: str | None, left: str) -> None:
    found, note = visible(MACHINE, wanted)
    assert found == tuple(MACHINE[int(number)] for number in left)
    assert bool(found) or note


def test_what_cuda_visible_devices_gets_wrong_is_said() -> None:
    assert "'7', which is no GPU here" in visible(MACHINE, "0,7,1")[1]
    assert "twice" in visible(MACHINE, "0,1,0")[1]
    assert visible(MACHINE, "1,0")[1] == ""


@given(st.text(alphabet="0123-+,GPUMIGab \x00é"))
def test_whatever_the_variable_says_only_gpus_that_are_there_are_left(wanted: str) -> None:
    found, _ = visible(MACHINE, wanted)
    assert set(found) <= set(MACHINE)
    assert len(set(found)) == len(found)
