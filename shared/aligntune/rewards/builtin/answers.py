"""Rewards that compare a final answer with a reference: as text, as a number, as mathematics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from aligntune.errors import SpecError
from aligntune.rewards.guard.timeout import Limit
from aligntune.rewards.inputs import column_of, text_of

MARKER = "####"
"""Marks the final answer in GSM8K (https://arxiv.org/abs/2110.14168)."""

LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*(-?[\d.]+)\s*\}")
LATEX_NOISE = re.compile(r"\{,\}|\\[,!;: ]|\\(?=[%$])")
NUMBER = re.compile(
    r"""
    (?P<sign> (?<![\w.)\]]) [-+] )?  # a sign, but not the minus of a difference
    (?: \$ \s? )?
    (?P<whole> \d{1,3} (?: ,\d{3} )+ (?!\d) | \d+ | (?=\.\d) )
    (?P<decimals> \.\d+ )?
    (?P<exponent> [eE] [-+]?\d{1,3} (?!\d) )?
    (?: \s?/\s? (?P<divisor> \d+ (?: \.\d+ )? ) )?
    (?P<percent> \s?% )?
    """,
    re.VERBOSE,
)
LONGEST_NUMBER = 1000
"""Longer numbers come from a model that does not stop, and are ignored."""


def exact_match(
    *, column: str = "answer", ignore_case: bool = False, after: str | None = None
) -> Any:
    """1 if the completion equals the reference, else 0; white space counts as one space.

    Args:
        column: the column of references: a text, or a list of accepted texts.
        ignore_case: whether ``Paris`` equals ``paris``.
        after: compare only what follows the last occurrence of this text, e.g. ``Answer:``; if it
            does not occur, the score is 0.
    """
    if after == "":
        raise SpecError("after is empty", "Set it to a text, or remove it")

    def normal(text: Any) -> str:
        plain = " ".join(str(text).split())
        return plain.casefold() if ignore_case else plain

    def score(completion: Any, reference: Any) -> float | None:
        if reference is None:
            return None
        text = text_of(completion)
        if after is not None:
            _, found, text = text.rpartition(after)
            if not found:
                return 0.0
        accepted = reference if isinstance(reference, (list, tuple)) else [reference]
        return float(normal(text) in {normal(answer) for answer in accepted})

    def exact_match(completions: Any, **columns: Any) -> list[float | None]:
        references = column_of(column, columns)
        return [score(*pair) for pair in zip(completions, references, strict=True)]

    return exact_match


def numeric(*, column: str = "answer", tolerance: float = 1e-9) -> Any:
    r"""1 if the completion's final number equals the reference's, else 0.

    The final number is the last in the last ``\boxed{}``, else the first after the last ``####``,
    else the last number. Thousands separators, currency signs, fractions (``3/4``,
    ``\frac{3}{4}``) and exponents are supported. ``50%`` equals 0.5, and also a plain 50, because
    data often omits the sign.

    Args:
        column: the column of references: numbers, or texts with a final number.
        tolerance: allowed difference, relative to the reference, or to 1 if that is larger.
    """
    if tolerance < 0:
        raise SpecError(f"tolerance is {tolerance}, but must not be negative")

    def score(completion: Any, reference: Any) -> float | None:
        wanted = _readings(str(reference)) if reference is not None else None
        if not wanted:
            return None
        found = _readings(text_of(completion))
        # A percentage has two readings only if one of the two numbers lacks the sign.
        both = len(wanted) == len(found) == 2
        pairs = [(found[0], wanted[0])] if both else [(f, w) for f in found for w in wanted]
        slack = Fraction(tolerance)
        return float(any(abs(f - w) <= slack * max(Fraction(1), abs(w)) for f, w in pairs))

    def numeric(completions: Any, **columns: Any) -> list[float | None]:
        references = column_of(column, columns)
        return [score(*pair) for pair in zip(completions, references, strict=True)]

    return numeric


def _readings(text: str) -> list[Fraction]:
    """The possible values of a text's final number: one, two for a percentage, or none."""
    boxed = last_boxed(text)
    marked = None if boxed is not None else text.rpartition(MARKER)
    if boxed is not None:
        numbers = list(_numbers(boxed))
    elif marked and marked[1]:
        numbers = list(_numbers(marked[2]))[:1]
    else:
        numbers = list(_numbers(text))
    return numbers[-1] if numbers else []


def _numbers(text: str) -> Iterable[list[Fraction]]:
    plain = LATEX_NOISE.sub("", text.replace("\u2212", "-"))
    plain = LATEX_FRACTION.sub(r"\1/\2", plain)
    for found in NUMBER.finditer(plain):
        if len(found[0]) > LONGEST_NUMBER:
            continue
        digits = found["whole"].replace(",", "") + (found["decimals"] or "")
        value = Fraction(digits + (found["exponent"] or ""))
        divisor = Fraction(found["divisor"] or 1)
        if not divisor:
            continue
        value /= divisor
        if (found["sign"] or "").startswith("-"):
            value = -value
        yield [value / 100, value] if found["percent"] else [value]


def last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{}`` of a text, with matched braces, or None."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start + len("\\boxed{") : place]
    return None


def math_answer(*, column: str = "answer", timeout: float = 5.0) -> Any:
    r"""1 if the completion's final answer is mathematically equal to the reference, else 0.

    Uses math-verify (https://github.com/huggingface/Math-Verify), which finds LaTeX, ``\boxed{}``
    first, and plain expressions. A reference without mathematics gives no score, as in TRL's
    ``accuracy_reward``.

    Args:
        column: the column of references, LaTeX with or without dollar signs.
        timeout: seconds per sample; an answer that takes longer counts as wrong.
    """
    if timeout <= 0:
        raise SpecError(f"timeout is {timeout}, but must be more than 0")

    def parsed(text: str) -> Any:
        from math_verify import parse

        # Its own time limit would cancel the alarm that limits every reward.
        return parse(text, parsing_timeout=None)

    def score(completion: Any, reference: Any) -> float | None:
        from math_verify import verify

        if reference is None:
            return None
        with Limit(timeout) as reading:
            wanted = parsed(str(reference))
            if not any(not isinstance(part, str) for part in wanted):
                wanted = parsed(f"${reference}$")
        if reading.over or not any(not isinstance(part, str) for part in wanted):
            return None
        with Limit(timeout):
            found = parsed(text_of(completion))
            return float(verify(wanted, found, timeout_seconds=None))
        return 0.0

    def math(completions: Any, **columns: Any) -> list[float | None]:
        references = column_of(column, columns)
        return [score(*pair) for pair in zip(completions, references, strict=True)]

    math.needs = lambda count: count * 2 * timeout  # type: ignore[attr-defined]
    return math


def warm_up() -> None:
    """Load math-verify and its grammar, which takes longer than a sample may take."""
    import logging

    from math_verify import parse

    for part in ("parser", "grader"):  # they warn about having no time limit
        logging.getLogger(f"math_verify.{part}").setLevel(logging.ERROR)
    parse(r"$\frac{1}{2}$", parsing_timeout=None)
