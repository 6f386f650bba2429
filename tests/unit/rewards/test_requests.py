"""Requests for rewards: what is refused by looking at them, and what the host learns from them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests.helpers.rewards import ROOT, Asked, made

from aligntune.errors import SpecError
from aligntune.rewards import check, columns, labels, names


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked("exactmatch"), "unknown reward 'exactmatch'; did you mean 'exact_match'"),
        (Asked("/x/mine.py"), "does not name a function"),
        (Asked("mine.py:f"), "does not name a function"),
        (Asked(), "a name or a model"),
        (Asked("math", "org/rm"), "a name or a model"),
        (Asked("math", args={"colum": "x"}), "math has no argument 'colum'; did you mean 'column'"),
        (
            Asked("numeric", args={"tolerance": "much"}),
            "numeric: tolerance is 'much'. Input should",
        ),
        (Asked("numeric", args={"tolerance": -1.0}), "numeric: tolerance is -1"),
        (Asked("length", args={"unit": "lines", "max": 3}), "unit is 'lines'"),
        (Asked("length", args={"target": True}), "target is True"),
        (Asked("length"), "needs either target"),
        (Asked("length", args={"min": 5, "max": 3}), "min is 5, but max is 3"),
        (Asked("regex"), "regex needs the argument 'pattern'"),
        (Asked("regex", args={"pattern": "("}), "not a valid regular expression"),
        (Asked("json_schema", args={"schema": "x"}), "schema is 'x'"),
        (Asked("code", args={"memory_mb": 1}), "memory_mb is 1"),
        (Asked(model="org/rm", args={"batch_size": 0}), "reward rm: batch_size is 0"),
        (Asked(model="org/rm", args={"batchsize": 1}), "did you mean 'batch_size'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_looking_at_it(asked: Asked, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        check([asked])


def test_a_schema_that_is_none_is_refused_before_training() -> None:
    for schema in ({"type": "objekt"}, {"pattern": "("}):
        with pytest.raises(SpecError, match="not a valid JSON schema"):
            made("json_schema", {"schema": schema})
    nowhere = {"properties": {"a": {"$ref": "#/$defs/b"}}}
    with pytest.raises(SpecError, match=r"refers to '#/\$defs/b', which it does not contain"):
        made("json_schema", {"schema": nowhere})
    made("json_schema", {"schema": {**nowhere, "$defs": {"b": {"type": "integer"}}}})


def test_the_host_learns_names_columns_and_labels_without_torch() -> None:
    program = (
        "import sys, aligntune.rewards as r\nr.check([])\nprint(r.names())\n"
        "print(sorted({'torch', 'math_verify', 'jsonschema', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "shared")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(names()), "[]"]
    asked = [
        Asked("regex", args={"pattern": "a"}),
        Asked("regex", args={"pattern": "b"}),
        Asked("/x/mine.py:math"),
        Asked("math", args={"column": "solution"}),
        Asked("code"),
        Asked(model="org/judge"),
        Asked(model="/models/judge"),
    ]
    found = labels(asked)
    assert found == ["regex", "regex_2", "math", "math_2", "code", "judge", "judge_2"]
    assert columns(asked) == {"math_2": "solution", "code": "tests"}
