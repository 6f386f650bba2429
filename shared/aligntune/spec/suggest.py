"""Suggestions for misspelled words, and for words of other tools."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from aligntune.spec.other_names import OTHER_NAMES

CUTOFF = 0.75
"""Similarity from which a word is suggested: one wrong letter in four, or two swapped ones."""


def nearest(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?``, or nothing if no known word is similar."""
    found = similar(word, known)
    return f"; did you mean {found!r}?" if found else ""


def similar(word: str, known: Sequence[str]) -> str | None:
    """The known word that is most similar, if one is similar enough."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=CUTOFF)), None)


def other_name(word: str) -> str | None:
    """What to write instead of a key or flag of another tool: a key, a key with a value, or, with
    spaces in it, a sentence. None if no tool is known to have it.
    """
    return OTHER_NAMES.get(word.lstrip("-").replace("-", "_").lower())


def nearest_key(word: str, keys: Sequence[str]) -> str | None:
    """The dotted key whose last part is a word, or similar to it."""
    leaves = {key.rpartition(".")[2]: key for key in reversed(keys)}
    found = word if word in leaves else similar(word, list(leaves))
    return leaves[found] if found else None
