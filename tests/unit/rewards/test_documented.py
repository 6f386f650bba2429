"""docs/rewards.md says what is true."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import yaml
from tests.helpers.rewards import ROOT, Asked

from aligntune.rewards import check, names

DOCUMENTED = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")


def test_the_docs_list_every_reward_with_its_arguments_and_defaults() -> None:
    from inspect import signature

    from aligntune.rewards.catalog import BUILT_IN

    table = DOCUMENTED.partition("## Built-in rewards")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.+?) \|$", table, re.M))
    assert set(rows) == set(BUILT_IN)
    for name, factory in BUILT_IN.items():
        shown = dict(re.findall(r"`(\w+)=([^`]*)`", rows[name]))
        needed = re.findall(r"`(\w+)`", rows[name])
        parameters = signature(factory).parameters.values()
        assert list(shown.items()) == [
            (one.name, yaml.safe_dump(one.default).split("\n")[0])
            for one in parameters
            if one.default is not one.empty
        ], name
        assert needed == [one.name for one in parameters if one.default is one.empty], name


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENTED, re.M | re.S)


def test_the_yaml_of_the_docs_passes_the_check() -> None:
    asked = [
        Asked(**{key: value for key, value in reward.items() if key != "kind"})
        for block in blocks("yaml")
        for reward in yaml.safe_load(block)["rewards"]
    ]
    check(asked)
    assert set(names()) == {one.name for one in asked if one.name and "/" not in one.name}


def test_the_functions_of_the_docs_run(own: Callable[..., Any]) -> None:
    given = {"completion_ids": [[1, 2], [1]], "answer": ["4", None], "trainer_state": None}
    for block in blocks("python"):
        (function, *_) = (
            node.name
            for node in ast.parse(block).body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        )
        reward = own(f"{block}\nf = {function}")
        found = reward(prompts=["2 + 2?", "Why?"], completions=["It is 4", "Because"], **given)
        assert len(found) == 2


def test_every_code_block_of_the_docs_is_tested_here() -> None:
    languages = re.findall(r"^```(\w*)$", DOCUMENTED, re.M)
    assert {language for language in languages if language} == {"yaml", "python"}
    assert len(languages) == 2 * (len(blocks("yaml")) + len(blocks("python")))
