"""What a known failure is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Symptom:
    """A known failure.

    Attributes:
        name: short and stable, for programs.
        signs: patterns, any of which shows it; each repeats only within bounds.
        means: what has happened, as half a sentence.
        mend: what to do, as an imperative, with the command where there is one.
    """

    name: str
    signs: tuple[str, ...]
    means: str
    mend: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{sign})" for sign in self.signs))
