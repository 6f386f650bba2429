"""Fenced code blocks of a completion, as CommonMark has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Block:
    """A fenced block: the first word of its info string in lower case, and its content."""

    language: str
    body: str


def fenced_blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text, in order (https://spec.commonmark.org, section 4.5).

    A block may be inside a list or a quotation, loses that indentation, and ends with the text if
    its closing fence is missing. Tags such as ``<think>`` do not hide a fence after them.
    """
    if "```" not in text and "~~~" not in text:
        return []
    return [
        Block((token.info.split() or [""])[0].lower(), token.content)
        for token in _parser().parse(text)
        if token.type == "fence"
    ]


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    # A tag on its own line would begin a block of HTML, which hides everything up to a blank line.
    return MarkdownIt("commonmark").disable(["html_block", "inline"])
