"""Memory as the kernel tells it."""

from __future__ import annotations

from pathlib import Path

from aligntune.worker.process_memory import most_resident, resident


def test_what_is_held_now_and_was_at_the_most_is_read_in_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    assert resident(status) == 2**20
    assert most_resident(status) == 2**21


def test_this_process_holds_something() -> None:
    assert 2**20 < resident() <= most_resident()


def test_a_kernel_that_does_not_tell_is_asked_another_way(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name: python\n")
    assert resident(status) == 0
    assert most_resident(status) > 2**20
