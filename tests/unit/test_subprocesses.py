"""Other programs: a missing one, their lines as they come, and their end."""

from __future__ import annotations

import pytest

from aligntune_run.subprocesses import capture, stream


class TestPrograms:
    def test_a_missing_program_is_a_failure_and_no_exception(self) -> None:
        assert capture(["/no/such/program"]).code == 127
        assert stream(["/no/such/program"], print).code == 127

    def test_lines_arrive_as_they_are_printed(self) -> None:
        lines: list[str] = []
        done = stream(["sh", "-c", "echo one; echo two >&2; exit 3"], lines.append)
        assert (lines, done.code, done.out) == (["one", "two"], 3, "one\ntwo")

    def test_a_program_ends_with_the_one_that_listens(self) -> None:
        def interrupt(line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stream(["sh", "-c", "echo; exec sleep 60"], interrupt)
