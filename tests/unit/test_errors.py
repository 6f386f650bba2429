"""The taxonomy of failures and its table in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aligntune import errors
from aligntune.errors import KINDS, AligntuneError, shown

DOCUMENTED = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def subclasses(kind: type[AligntuneError]) -> list[type[AligntuneError]]:
    return [found for child in kind.__subclasses__() for found in (child, *subclasses(child))]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gptq", "gptq"),
        ("modèle 模型", "modèle 模型"),
        ("\x1b[31m\n\u202e\ud800", "\\x1b[31m\\n\\u202e\\ud800"),
        (None, "None"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 77 + "..."),
        ("x" * 80 + "\n", "x" * 77 + "..."),
        ("\n" * 10**6, "\\n" * 38 + "\\..."),
    ],
)
def test_text_of_others_is_shown_printable_and_cut(text: object, told: str) -> None:
    assert shown(text) == told


def test_every_class_is_in_kinds_under_its_own_name() -> None:
    ours = [kind for kind in subclasses(AligntuneError) if kind.__module__ == errors.__name__]
    assert {kind.__name__: kind for kind in ours} == KINDS


def test_exit_codes_are_unique_and_leave_the_shell_s_own_alone() -> None:
    codes = [AligntuneError.exit_code, *(kind.exit_code for kind in KINDS.values())]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 125 for code in codes), "125 and above are docker's and the shell's"


def test_every_class_says_what_it_means() -> None:
    assert all(kind.__doc__ and kind.__doc__ != AligntuneError.__doc__ for kind in KINDS.values())


def test_the_docs_list_exactly_the_classes_with_their_codes_meaning_and_remedy() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)` \| (.+?) \| (.+?) \|$", DOCUMENTED.read_text("utf-8"), re.M
    )
    documented = {name: int(code) for code, name, _, _ in rows}
    ours = {name: kind.exit_code for name, kind in KINDS.items()}
    assert documented == {"AligntuneError": 1, **ours}
    assert [int(code) for code, *_ in rows] == sorted(documented.values())


@pytest.mark.parametrize(
    ("what", "remedy", "shown"),
    [("it broke", "Mend it", "it broke. Mend it"), ("it broke", "", "it broke")],
)
def test_an_error_reads_as_what_happened_and_then_what_to_do(
    what: str, remedy: str, shown: str
) -> None:
    assert str(AligntuneError(what, remedy)) == shown
