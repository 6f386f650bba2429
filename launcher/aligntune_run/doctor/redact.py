"""Removes secrets and names from text that leaves this machine.

It removes the values of the caller's secrets, wherever they appear and however they are escaped;
text that looks like a secret; and values whose name says they are secret. It removes too much
rather than too little. Pattern repeats are bounded, so the work is bounded too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

REMOVED = "(removed)"
LEFT_OUT = "(left out)"

SECRET_NAME = re.compile(
    r"(?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)token(?!iz|s?_?per|s\b|_t)"
    r"|secret|passw|passphrase|credential|authoriz|_auth\b|api_?key|access_?key|private_?key"
    r"|_key\b|^key$|_pat\b|cookie",
    re.IGNORECASE,
)
"""Names of variables or keys whose value is a secret."""

LEAST = 6
"""A shorter value is not a real secret, and would match inside ordinary words."""

WORDS = ("true", "false", "enabled", "disabled", "default")

VALUE = (
    r"(?P<value>\\{1,3}[\"'][^\"'\n]{0,500}[\"']|\"(?:[^\"\\\n]|\\.){0,500}\""
    r"|'(?:[^'\\\n]|\\.){0,500}'|[^\s\"',;&}\])]{4,500})"
)
"""The value after a name: quoted, in escaped quotes, or a word."""

PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[A-Za-z0-9+/=\s\\]*", REMOVED),
        (r"(://)[^/\s\"<>]{1,300}@", rf"\1{REMOVED}@"),
        (
            r"(?i)(authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?)(?:\w{1,20} )?[^\s\"',]{1,500}",
            rf"\1{REMOVED}",
        ),
        (r"(?i)\b(bearer\s{1,3})[\w.~+/=-]{4,}", rf"\1{REMOVED}"),
        (r"hf_(?=[a-z]{0,60}[A-Z0-9])[A-Za-z0-9]{8,}", REMOVED),
        (r"(?<![\w-])(?:sk|pk|rk|glpat|xox[abeprs])-[\w-]{12,}", REMOVED),
        (r"(?<!\w)(?:gh[oprsu]_|github_pat_|api_org_|npm_|pypi-)\w{12,}", REMOVED),
        (r"(?<!\w)(?:AKIA|ASIA)[0-9A-Z]{12,}", REMOVED),
        (r"(?<!\w)AIza[\w-]{30,}", REMOVED),
        (r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{4,}", REMOVED),
        (r"(?<!snapshots/)(?<!\w)[0-9a-f]{40}(?!\w)", REMOVED),  # wandb's keys; commits too
    )
)
"""Text that looks like a secret, and its replacement."""

NAMED = re.compile(
    r"(?i)(?P<name>(?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)token"
    r"|secret|passw(?:or)?d|passphrase|credentials?|api_?key|access_?key|signature)"
    rf"(?P<is>(?:\\{{0,3}}[\"'])?\s{{0,3}}[:=]\s{{0,3}}){VALUE}"
)
HARMLESS = re.compile(r"[\"']?(?:[\d.,%]+|none|null|true|false)[\"']?", re.IGNORECASE)
HOMES = re.compile(r"(?<=/home/|Users/)[^/\s\"':,;]{1,64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
COMMIT_KEYS = ("commit", "revision")


class Redactor:
    """Removes what must not leave this machine.

    Args:
        environment: the caller's environment. Values of variables with a secret name, and passwords
            in addresses, are removed everywhere.
        secrets: other values to remove.
        home: the caller's home, which becomes ``~``, as does the caller's name in other paths.
        private: texts that are not secret but are left out as well.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        secrets: Iterable[str] = (),
        home: Path | None = None,
        private: Iterable[str] = (),
    ) -> None:
        known = {*secrets, *_secrets(environment)}
        kept = {one for one in known if len(one) >= LEAST and one.lower() not in WORDS}
        instead = {form: REMOVED for one in kept for form in _forms(one)}
        instead |= {form: LEFT_OUT for one in private if one for form in _forms(one)}
        # The longest first, because one can contain another.
        self._literal = [(one, instead[one]) for one in sorted(instead, key=len, reverse=True)]
        places = {str(home), os.path.realpath(home)} if home else set()
        self._homes = sorted((one for one in places if len(one) > 1), key=len, reverse=True)
        name = home.name if home else ""
        self._name = re.compile(rf"(?<=/){re.escape(name)}(?![\w.-])") if len(name) > 2 else None

    def text(self, text: str) -> str:
        """The text without secrets and without the caller's name in paths."""
        for literal, instead in self._literal:
            text = text.replace(literal, instead)
        for pattern, instead in PATTERNS:
            text = pattern.sub(instead, text)
        text = NAMED.sub(_unnamed, text)
        for home in self._homes:
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
        text = HOMES.sub("~", text)
        return self._name.sub("~", text) if self._name else text

    def values(self, values: Any, key: str = "") -> Any:
        """JSON-like values with their keys; values with a secret's name are removed."""
        if isinstance(values, Mapping):
            return {
                self.text(str(name)): self.values(one, str(name)) for name, one in values.items()
            }
        if isinstance(values, list | tuple):
            return [self.values(one, key) for one in values]
        if isinstance(values, Path):
            values = str(values)
        if not isinstance(values, str) or not values:
            return values
        if key in COMMIT_KEYS and COMMIT.fullmatch(values):
            return values
        return REMOVED if SECRET_NAME.search(key) else self.text(values)


def _secrets(environment: Mapping[str, str]) -> Iterable[str]:
    for name, value in environment.items():
        if SECRET_NAME.search(name):
            yield value
            yield from value.split()
        yield from _logins(value)


def _logins(value: str) -> Iterable[str]:
    """The passwords in one or more addresses, both as written and decoded."""
    for word in value.split():
        try:
            password = urlsplit(word).password
        except ValueError:
            continue
        if password:
            yield from (password, unquote(password))


def _forms(secret: str) -> set[str]:
    """A text as it is, and as JSON, a URL and Python write it."""
    return {
        secret,
        secret.strip(),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        repr(secret)[1:-1],
    } - {""}


def _unnamed(match: re.Match[str]) -> str:
    if HARMLESS.fullmatch(match["value"]):
        return match[0]
    value = match["value"]
    mark = value[: len(value) - len(value.lstrip("\\\"'"))]
    return f"{match['name']}{match['is']}{mark}{REMOVED}{mark}"
