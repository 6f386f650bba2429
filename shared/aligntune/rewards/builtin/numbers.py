r"""Reads the number that a text gives as its answer: whole, or not at all.

The answer is the content of the last ``\boxed{}``, else the first number after the last ``####``
(GSM8K, https://arxiv.org/abs/2110.14168), else the last number of the text. A number that is part
of something longer, such as the 3 in ``x^3``, ``10-3`` or ``2 to 3x``, is not an answer.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MARKER = "####"

MOST_DIGITS = 1000
"""Longer numbers come from a model that does not stop, and are not read."""

PLAIN = r"(?:\d{1,3}(?:(?P<comma%s>,|'|[ ])\d{3})(?:(?P=comma%s)\d{3})*(?!\d)|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(
    rf"""
    (?P<sign> [-+] | (?: (?<==) | (?<==[ ]) ) [-+] [ ] )?
    (?P<currency> [$€£¥] [ ]? )?
    (?P<inner> [-+] )?
    (?:
        (?P<whole> \d+ ) (?: [ ]+ and [ ]+ | [ ]+ | [ ]* \+ [ ]* (?=\d+[ ]?/[ ]?\d+\b) )
        (?P<over> \d+ ) [ ]? / [ ]? (?P<under> \d+ ) (?! [\d.] )
      | (?P<number> {PLAIN % ("1", "1")} ) (?: [eE] (?P<exponent> [-+]?\d+ ) )?
        (?: [ ]? / [ ]? (?P<divisor> {PLAIN % ("2", "2")} ) )?
    )
    (?: [ ]? \^ [ ]? \(? (?P<power> [-+]?\d+ ) \)? )?
    (?: [ ]? \* [ ]? 10 [ ]? \^ [ ]? \(? (?P<scale> [-+]?\d+ ) \)? )?
    """,
    re.VERBOSE,
)

UNITS: dict[str, tuple[str, Fraction]] = {
    name: (kind, Fraction(size))
    for kind, sizes in {
        "length": {"mm": "1/1000", "cm": "1/100", "m": "1", "km": "1000"},
        "mass": {"mg": "1/1000", "g": "1", "kg": "1000"},
        "time": {
            "ms": "1/1000",
            "s": "1",
            "min": "60",
            "h": "3600",
            "day": "86400",
            "week": "604800",
        },
        "volume": {"ml": "1/1000", "l": "1"},
        "imperial length": {"inch": "1", "foot": "12", "yard": "36", "mile": "63360"},
        "dollar": {"dollar": "1", "cent": "1/100"},
        "euro": {"euro": "1"},
        "pound": {"pound": "1"},
        "yen": {"yen": "1"},
        "angle": {"degree": "1"},
    }.items()
    for name, size in sizes.items()
}
"""Unit -> what it measures, and how much of it."""

SPELLINGS = {
    "millimeter": "mm", "millimetre": "mm", "centimeter": "cm", "centimetre": "cm", "meter": "m",
    "metre": "m", "kilometer": "km", "kilometre": "km", "milligram": "mg", "gram": "g",
    "kilogram": "kg", "millisecond": "ms", "sec": "s", "second": "s", "minute": "min", "hr": "h",
    "hour": "h", "milliliter": "ml", "millilitre": "ml", "liter": "l", "litre": "l",
    "inches": "inch", "feet": "foot", "ft": "foot", "usd": "dollar", "$": "dollar", "€": "euro",
    "£": "pound", "¥": "yen", "°": "degree",
}  # fmt: skip

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

LATEX = (
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(?<![\w)*])(\*{1,2}|_{1,2})(?=\S)([^*_\n]{1,200}?)(?<=\S)\1(?![\w*])"), r"\2"),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"([^\W\d_]{2,20}|\bm) ?\^ ?\{?2\}?(?!\d)"), r"\1²"),
    (re.compile(r"([^\W\d_]{2,20}|\bm) ?\^ ?\{?3\}?(?!\d)"), r"\1³"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<=\d)\\[,!;: ](?=\d{3})"), ","),
    (re.compile(r"\\(?:[,!;: ]|left|right|quad|displaystyle)|~"), " "),
    (re.compile(r"\\(?=[%$#&])"), ""),
    (re.compile(r"(?<=\d)\s*(?=\\[dtc]?frac)"), " "),
    (re.compile(r"\\[dtc]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}"), r"\1/\2 "),
    (re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)"), r"\1/\2 "),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree"), "°"),
    (re.compile(r"\\times|\\cdot|[\u00d7\u00b7\u22c5]"), "*"),
    (re.compile(r"\*\*(?=\s?[-+(]?\d)"), "^"),
    (re.compile(r"\^\s*\{\s*([-+]?\d+)\s*\}"), r"^\1"),
    (re.compile("[\u2212\u2012\u2013]"), "-"),
    (re.compile("[\u00a0\u2009\u202f]"), " "),
)

OPERATOR_BEFORE = re.compile(
    r"(?:[\d)\]}!]|(?<![^\W\d_])[^\W\d_]) ?[-+*/^]{1,2} ?\Z|[\w\\^:]\Z|\d[.,']\Z"
    r"|(?:\w|[*/^+-] ?)\(\Z"
)
"""What makes a number part of something longer, before it."""

OPERATOR_AFTER = re.compile(r" ?[-+*/^] ?[\d(\\]| ?[-+*/^] ?[^\W\d_]\b|[!:.,]\w|[\^/\\_]")
WORD_AFTER = re.compile(r" ?(%|percent\b|[^\W\d_]+|°)")
WORDS = re.compile(r"[^\W\d_]*[²³]?(?:[ '-]+[^\W\d_]+[²³]?)*")


@dataclass(frozen=True)
class Reading:
    """A number as a text gives it.

    Attributes:
        value: the number, in the smallest unit of its kind if it has a known unit.
        unit: what the unit measures, None without a known unit.
        percent: whether it is a percentage; ``value`` is the number before the sign.
    """

    value: Fraction
    unit: str | None = None
    percent: bool = False

    def equals(self, other: Reading, tolerance: Fraction) -> bool:
        """Whether this is the same as a reference.

        ``50%`` equals 0.5, and also a plain 50, because data often omits the sign. A unit that only
        one of the two has does not count.
        """
        if self.unit and other.unit:
            if self.unit != other.unit:
                return False
        elif self.unit or other.unit:
            return self.as_written.equals(other.as_written, tolerance)
        one = {self.value, self.value / 100} if self.percent else {self.value}
        two = {other.value, other.value / 100} if other.percent else {other.value}
        if self.percent and other.percent:
            one, two = {self.value}, {other.value}
        return any(abs(f - w) <= tolerance * max(Fraction(1), abs(w)) for f in one for w in two)

    @property
    def as_written(self) -> Reading:
        """The number without its unit."""
        return Reading(self.value / self.size, None, self.percent)

    size: Fraction = Fraction(1)
    """How much the unit is of its kind."""


def read_answer(text: str) -> Reading | None:
    """The number that a text gives as its answer; None if it gives none, or none as a whole."""
    boxed = last_boxed(text)
    if boxed is not None:
        return read_whole(boxed)
    _, marked, after = text.rpartition(MARKER)
    if marked:
        found = _readings(_plain(after.strip().partition("\n")[0]))
        return found[0] if found else None
    found = _readings(_plain(text))
    return found[-1] if found else None


def read_whole(text: str) -> Reading | None:
    """The number that a text consists of, maybe with words around it; None for anything else."""
    plain = _plain(text).strip(" $.\n")
    plain = re.sub(r"^[^\W\d_]\w* ?[=≈] ?", "", plain)
    matches = list(NUMBER.finditer(plain))
    if len(matches) != 1:
        return None
    (match,) = matches
    before, after = plain[: match.start()].strip(), plain[match.end() :].strip(" %°.")
    if (len(before) == 1 and before.isalpha()) or not WORDS.fullmatch(before):
        return None
    if not WORDS.fullmatch(after.removeprefix("percent").strip()):
        return None
    return _reading(plain, match)


def _plain(text: str) -> str:
    plain = text
    if not text.isascii():
        plain = re.sub(r"(?<=\d)[⁰¹²³⁴-⁹⁻]+", lambda m: f"^{m[0].translate(SUPERSCRIPTS)}", plain)
        plain = "".join(map(_spelled, plain))
    for pattern, replacement in LATEX:
        plain = pattern.sub(replacement, plain)
    return re.sub(r"[ \t]+", " ", plain)


def _spelled(char: str) -> str:
    """``½`` as `` 1/2``; other characters unchanged."""
    if unicodedata.category(char) == "No":
        top, slash, bottom = unicodedata.normalize("NFKC", char).partition("\u2044")
        return f" {top}/{bottom}" if slash else char
    return char


def _readings(plain: str) -> list[Reading | None]:
    return [_reading(plain, match) for match in NUMBER.finditer(plain)]


def _reading(plain: str, match: re.Match[str]) -> Reading | None:
    """The number at a place of a text; None if it is part of something longer, or too long."""
    start, end = match.span()
    sign = (match["sign"] or match["inner"] or "").strip()
    before = plain[max(start - 4, 0) : start]
    if match["sign"] and re.search(r"(?:[\d)\]}!]|(?<![^\W\d_])[^\W\d_]) ?\Z", before):
        return None  # the sign is that of a difference
    if OPERATOR_BEFORE.search(before):
        return None
    after = plain[end : end + 40]
    if OPERATOR_AFTER.match(after):
        return None
    word = WORD_AFTER.match(after)
    unit, percent = match["currency"], False
    if word:
        percent = word[1] in ("%", "percent")
        known = _unit(word[1])
        if known is None and not percent and not word[0].startswith(" "):
            return None  # 2x, 3rd
        unit = unit or (word[1] if known else None)
    value = _value(match)
    if value is None:
        return None
    value = -value if sign == "-" else value
    kind, size = _unit(unit.strip()) or (None, Fraction(1)) if unit else (None, Fraction(1))
    return Reading(value * size, kind, percent, size)


def _unit(name: str) -> tuple[str, Fraction] | None:
    word = name if name in ("m", "l") else name.casefold()
    for spelled in (word, word.removesuffix("s")):
        found = UNITS.get(SPELLINGS.get(spelled, spelled))
        if found:
            return found
    return None


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > MOST_DIGITS:
        return None
    try:
        if match["whole"]:
            value = int(match["whole"]) + Fraction(int(match["over"]), int(match["under"]))
        else:
            value = _decimal(match["number"]) * _power(Fraction(10), match["exponent"])
            if match["divisor"]:
                value /= _decimal(match["divisor"])
        value = _power(value, match["power"] or "1")
        return value * _power(Fraction(10), match["scale"])
    except (ZeroDivisionError, ValueError):
        return None


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub("[,' ]", "", text))


def _power(base: Fraction, exponent: str | None) -> Fraction:
    """``base`` to a whole power.

    Raises:
        ValueError: the result would be too long.
    """
    power = int(exponent or "0")
    digits = max(base.numerator.bit_length(), base.denominator.bit_length()) // 3
    if abs(power) * max(digits, 1) > MOST_DIGITS:
        raise ValueError("too long")
    return base**power


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
