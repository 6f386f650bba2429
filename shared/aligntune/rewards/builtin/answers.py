"""Rewards that compare a final answer with a reference: as text, as a number, as mathematics."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from numbers import Real
from typing import Any

from aligntune.errors import DataError, SpecError
from aligntune.rewards.builtin.mathematics import mathematician
from aligntune.rewards.builtin.numbers import Reading, read_answer
from aligntune.rewards.builtin.per_sample import PerSample
from aligntune.rewards.inputs import excerpt

RESTART_SECONDS = 10.0
"""Time to start math-verify again after an answer that took too long."""


def exact_match(
    *, column: str = "answer", ignore_case: bool = False, after: str | None = None
) -> Any:
    """1 if the completion equals the reference, else 0; white space counts as one space.

    Args:
        column: the column of references: a text or number, or a list of accepted ones.
        ignore_case: whether ``Paris`` equals ``paris``.
        after: compare only what follows the last occurrence of this text, e.g. ``Answer:``; if it
            does not occur, the score is 0.
    """
    if after == "":
        raise SpecError("after is empty", "Set it to a text, or remove it")

    def normal(text: str) -> str:
        plain = " ".join(text.split())
        return plain.casefold() if ignore_case else plain

    def score(text: str, accepted: list[str]) -> float:
        if after is not None:
            _, found, text = text.rpartition(after)
            if not found:
                return 0.0
        return float(normal(text) in accepted)

    return PerSample(score, column, _accepted("exact_match", normal))


def numeric(*, column: str = "answer", tolerance: float = 1e-9) -> Any:
    r"""1 if the completion's final number equals the reference's, else 0.

    :mod:`.numbers` says which number that is. Thousands separators, currencies, units, fractions,
    mixed numbers, powers and exponents are read. ``50%`` equals 0.5, and also a plain 50, because
    data often omits the sign.

    Args:
        column: the column of references: numbers, texts with a final number, or lists of accepted
            ones.
        tolerance: allowed difference, relative to the reference, or to 1 if that is larger.
    """
    if tolerance < 0:
        raise SpecError(f"tolerance is {tolerance}, but must not be negative")
    slack = Fraction(tolerance)

    def read(text: str) -> Reading:
        found = read_answer(text)
        if found is None:
            raise ValueError("it has no number that can be read as a whole")
        return found

    def score(text: str, accepted: list[Reading]) -> float:
        found = read_answer(text)
        return float(found is not None and any(found.equals(one, slack) for one in accepted))

    return PerSample(score, column, _accepted("numeric", read))


def math_answer(*, column: str = "answer", timeout: float = 5.0) -> Any:
    r"""1 if the completion's final answer is mathematically equal to the reference, else 0.

    Uses math-verify (https://github.com/huggingface/Math-Verify), which finds LaTeX, ``\boxed{}``
    first, and plain expressions. It runs in a process of its own, because no signal interrupts the
    arithmetic of numbers such as ``7^{10^9}``.

    Args:
        column: the column of references: LaTeX with or without dollar signs, or a list of accepted
            ones.
        timeout: seconds per sample; an answer that takes longer counts as wrong.
    """
    if timeout <= 0:
        raise SpecError(f"timeout is {timeout}, but must be more than 0")

    def read(text: str) -> str:
        try:
            understood = mathematician().understands(text, timeout)
        except TimeoutError:
            raise ValueError(f"it takes more than {timeout:g} s to read") from None
        if not understood:
            raise ValueError("it is not mathematics that math-verify reads")
        return text

    def score(text: str, accepted: list[str]) -> float:
        return float(mathematician().equal(accepted, text, timeout))

    judge = PerSample(score, column, _accepted("math", read), None, lambda: mathematician().start())
    judge.needs = lambda count: count * (2 * timeout + RESTART_SECONDS)  # type: ignore[method-assign]
    return judge


def _accepted(reward: str, read: Callable[[str], Any]) -> Callable[[Any], list[Any] | None]:
    """Reads a reference: one answer or a list of accepted ones, each by ``read``.

    ``read`` raises a ValueError with the reason if it does not understand an answer.
    """

    def read_all(reference: Any) -> list[Any] | None:
        found = []
        listed = isinstance(reference, (list, tuple))
        for answer in reference if listed else [reference]:
            if answer is None or (isinstance(answer, str) and not answer.strip()):
                continue
            try:
                if isinstance(answer, bool) and reward != "exact_match":
                    raise ValueError("it is neither a text nor a number")
                if not isinstance(answer, (str, Real)) and not _is_number(answer):
                    raise ValueError("it is neither a text nor a number")
                if answer != answer:
                    raise ValueError("it is not a number")
                found.append(read(str(answer)))
            except ValueError as error:
                raise DataError(
                    f"the reward {reward} cannot use the reference {excerpt(str(answer))}: {error}",
                    "Fix or remove that row, or use another reward",
                ) from None
        return found or None

    return read_all


def _is_number(value: Any) -> bool:
    from decimal import Decimal

    return isinstance(value, Decimal)
