"""The definition of a known failure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Symptom:
    """A known failure.

    Attributes:
        name: short and stable, for programs.
        signs: patterns; one match is enough. Each has bounded repeats.
        means: what happened, as half a sentence.
        remedy: what to do, as an imperative, with the command if there is one.
    """

    name: str
    signs: tuple[str, ...]
    means: str
    remedy: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{sign})" for sign in self.signs))
