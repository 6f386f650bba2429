"""Parquet files, Arrow files and Arrow streams are read whole, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.containers.runs import ROOT, Bench, in_image


def test_every_form_of_arrow_data_is_read_or_refused_by_name(
    image: Callable[[str, str], str], bench: Bench
) -> None:
    script = Path(shutil.copy(ROOT / "tests" / "containers" / "arrow_rows.py", bench.folder))
    printed = in_image(image("trl", "cpu"), script, bench)
    found = json.loads(printed.splitlines()[-1])
    assert set(found) == {"parquet", "file", "stream"}
    for form, rows in found.items():
        assert [row for _, row in rows["good"]] == [
            {"text": "a", "score": 1},
            {"text": "b", "score": None},
        ], form
        assert "two values are named 'text'" in rows["twice"]
        assert f"{form}-cut" in rows["cut"]
        assert "is not a valid" in rows["cut"]
