"""Render conversations with a chat template, and find what the template leaves out.

Templates silently skip what they do not know: roles, reasoning, tool calls. So a conversation is
checked twice. Once per shape (roles and kinds of content), a conversation of unique marks shows
which places the template renders. Then each conversation's own texts are looked up in its
rendering, because some templates drop parts of a text, such as earlier reasoning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aligntune.data.messages import REASONING, Message
from aligntune.errors import ModelError, SpecError
from aligntune.failures import first_line
from aligntune.spec.run_spec import RunSpec

Row = Mapping[str, Any]
MARK = "zq{}zq"
"""A text that no template contains, alters or splits."""


@dataclass(frozen=True)
class Conversation:
    """What a chat template renders.

    Attributes:
        messages: canonical messages, see :mod:`aligntune.data.messages`.
        tools: OpenAI's form of the tools, None without any.
        arguments: the row's own arguments of the template.
        asks: whether the rendering ends where the assistant's answer starts.
    """

    messages: Sequence[Message]
    tools: Sequence[Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    asks: bool = False


@dataclass(frozen=True)
class Rendering:
    """A rendered conversation.

    Attributes:
        text: what is tokenized.
        generated: start and end characters of the ``{% generation %}`` blocks.
    """

    text: str
    generated: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Loss:
    """A part of a conversation that the template leaves out.

    Attributes:
        number: the message, from 1; 0 for the tools.
        what: the part, for messages.
        matters: whether the conversation makes no sense without it.
    """

    number: int
    what: str
    matters: bool = True

    def __str__(self) -> str:
        return f"{self.what} of message {self.number}" if self.number else self.what


def conversation(row: Row, *columns: str, asks: bool = False) -> Conversation:
    """The conversation in some columns of a canonical row, one after the other."""
    messages = [message for column in columns for message in row[column]]
    return Conversation(
        messages, row.get("tools") or None, row.get("chat_template_args") or {}, asks
    )


class Renderer:
    """Renders conversations.

    Args:
        tokenizer: whose chat template is used.
        arguments: of the template, for every conversation; a row's own arguments override them.
        template: used instead of the tokenizer's.
    """

    def __init__(
        self, tokenizer: Any, arguments: Mapping[str, Any] | None = None, template: Any = None
    ) -> None:
        self.tokenizer = tokenizer
        self.arguments = dict(arguments or {})
        self.template = template
        self._probed: dict[Any, tuple[int, tuple[Loss, ...]]] = {}
        self._read: dict[str, bool] = {}
        self._sources: dict[bool, str] = {}
        self._special = dict(tokenizer.special_tokens_map)

    def render(self, chat: Conversation, mask: bool = False) -> Rendering:
        """Render a conversation; with ``mask`` also find the ``{% generation %}`` blocks.

        Raises:
            ModelError: the template cannot render the conversation.
        """
        form, _ = self._probe(chat)
        try:
            return self._render(chat, form, mask)
        except Exception as error:  # a template raises whatever its expressions raise
            roles = ", ".join(message["role"] for message in chat.messages)
            raise ModelError(
                f"the chat template cannot render a conversation with the roles {roles}: "
                f"{first_line(error)}",
                "Fix the roles in the data, or set model.chat_template to a template that takes "
                "them",
            ) from error

    def losses(self, chat: Conversation) -> tuple[Loss, ...]:
        """The parts of a conversation that are not in its rendering."""
        _, lost = self._probe(chat)
        places = {(loss.number, loss.what) for loss in lost}
        text = self.render(chat).text
        own = [loss for loss in _own_losses(chat, text) if (loss.number, loss.what) not in places]
        return (*lost, *own)

    def reads(self, name: str) -> bool:
        """Whether the template mentions a name."""
        if name not in self._read:
            mentioned = re.search(rf"\b{re.escape(name)}\b", self._source(None))
            self._read[name] = mentioned is not None
        return self._read[name]

    def _source(self, tools: Any) -> str:
        """The template for conversations with or without tools."""
        has_tools = bool(tools)
        if has_tools not in self._sources:
            known = self.tokenizer.chat_template or self.template
            source = self.tokenizer.get_chat_template(self.template, tools) if known else ""
            self._sources[has_tools] = str(source)
        return self._sources[has_tools]

    def _probe(self, chat: Conversation) -> tuple[int, tuple[Loss, ...]]:
        """The first form of messages that loses nothing that matters, and what it loses."""
        shape = (
            tuple(_shape(message) for message in chat.messages),
            bool(chat.tools),
            chat.asks,
            json.dumps(chat.arguments, sort_keys=True) if chat.arguments else "",
        )
        if shape not in self._probed:
            self._probed[shape] = self._probe_shape(chat)
        return self._probed[shape]

    def _probe_shape(self, chat: Conversation) -> tuple[int, tuple[Loss, ...]]:
        marks: dict[str, Loss] = {}
        marked = _marked(chat, marks)
        found: list[tuple[int, tuple[Loss, ...]]] = []
        for form in range(len(FORMS)):
            try:
                text = self._render(marked, form, False).text
            except Exception:  # if no form renders, the row itself raises the template's error
                continue
            lost = tuple(loss for mark, loss in marks.items() if mark not in text)
            found.append((form, lost))
            if not any(loss.matters for loss in lost):
                break
        return min(found, key=lambda each: sum(loss.matters for loss in each[1]), default=(0, ()))

    def _render(self, chat: Conversation, form: int, mask: bool) -> Rendering:
        from transformers.utils.chat_template_utils import render_jinja_template

        source = self._source(chat.tools)
        developer = self.reads(DEVELOPER)
        texts, generated = render_jinja_template(
            conversations=[[_adapted(message, form, developer) for message in chat.messages]],
            tools=chat.tools,
            chat_template=source,
            return_assistant_tokens_mask=mask,
            add_generation_prompt=chat.asks,
            **{**self._special, **self.arguments, **chat.arguments},
        )
        return Rendering(texts[0], tuple(map(tuple, generated[0])) if mask else ())


def make_renderer(tokenizer: Any, spec: RunSpec, template: Any = None) -> Renderer:
    """The renderer of a run, with another template than the tokenizer's if one is given.

    Raises:
        SpecError: the tokenizer's chat template does not read an argument of
            ``model.chat_template_args``.
    """
    arguments = spec.model.chat_template_args
    own = Renderer(tokenizer, arguments)
    unread = [name for name in arguments if not own.reads(name)]
    if unread:
        what = f"the chat template does not read {unread[0]!r}"
        key = f"model.chat_template_args.{unread[0]}"
        raise SpecError(f"{what}, so {key} would have no effect", f"Remove {key}, or fix its name")
    return Renderer(tokenizer, arguments, template) if template else own


def _adapted(message: Message, form: int, developer: bool) -> Message:
    """A canonical message as a template expects it."""
    adapted = {key: value for key, value in message.items() if key != "learned"}
    if message["role"] == DEVELOPER and not developer:
        adapted["role"] = "system"
    if "reasoning_content" in message:
        adapted |= dict.fromkeys(REASONING, message["reasoning_content"])
    return FORMS[form](adapted)


def _with_text_arguments(message: Message) -> Message:
    """Arguments as JSON text, which DeepSeek's templates append to a string."""
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls}


def _without_content(message: Message) -> Message:
    """No content beside calls, which other templates need."""
    return (
        {**message, "content": message["content"] or None} if "tool_calls" in message else message
    )


def _with_parts(message: Message) -> Message:
    """Content as a list of parts, which templates of vision models need."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


FORMS = (
    lambda message: message,
    _with_text_arguments,
    _without_content,
    lambda message: _without_content(_with_text_arguments(message)),
    _with_parts,
)
"""Forms of a message that templates differ in, in the order in which they are tried."""


def _shape(message: Message) -> tuple[Any, ...]:
    calls = tuple(bool(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
    others = tuple(key for key in ("reasoning_content", "name", "tool_call_id") if key in message)
    return message["role"], bool(message["content"]), calls, others


DEVELOPER = "developer"
"""OpenAI's newer name of the system role, which only some templates have."""

REASON = "the reasoning"
CONTENT = "the content"
CALL = "a tool call"
TOOLS = "the tools"


def _marked(chat: Conversation, marks: dict[str, Loss]) -> Conversation:
    """A conversation of the same shape in which every text is a mark; adds the marks."""

    def mark(number: int, what: str, matters: bool = True) -> str:
        text = MARK.format(len(marks))
        marks[text] = Loss(number, what, matters)
        return text

    def link(number: int, identity: str) -> str:
        if identity not in links:
            links[identity] = mark(number, "the ids of tool calls", matters=False)
        return links[identity]

    links: dict[str, str] = {}
    messages = []
    for number, message in enumerate(chat.messages, 1):
        made: Message = {"role": message["role"], "content": ""}
        if message["content"]:
            made["content"] = mark(number, CONTENT)
        if "reasoning_content" in message:
            made["reasoning_content"] = mark(number, REASON, matters=False)
        calls = []
        for call in message.get("tool_calls", ()):
            function = {"name": mark(number, CALL), "arguments": {}}
            if call["function"]["arguments"]:
                function["arguments"] = {mark(number, CALL): mark(number, CALL)}
            own = {"id": link(number, call["id"])} if "id" in call else {}
            calls.append({**own, "type": "function", "function": function})
        if calls:
            made["tool_calls"] = calls
        if "name" in message:
            made["name"] = mark(number, "the name", matters=False)
        if "tool_call_id" in message:
            made["tool_call_id"] = link(number, message["tool_call_id"])
        messages.append(made)
    return Conversation(
        messages, _marked_tools(mark) if chat.tools else None, chat.arguments, chat.asks
    )


def _marked_tools(mark: Callable[..., str]) -> list[dict[str, Any]]:
    parameter = {"type": "string", "description": mark(0, "descriptions of tools", matters=False)}
    function = {
        "name": mark(0, TOOLS),
        "description": mark(0, TOOLS),
        "parameters": {"type": "object", "properties": {mark(0, TOOLS): parameter}, "required": []},
    }
    return [{"type": "function", "function": function}]


def _own_losses(chat: Conversation, text: str) -> Iterator[Loss]:
    """The texts of a conversation that its rendering does not contain."""
    for number, message in enumerate(chat.messages, 1):
        content = message["content"]
        if not contains(text, content):
            _, closed, after = content.rpartition("</think>")
            kept = bool(closed) and contains(text, after)
            yield Loss(number, REASON if kept else CONTENT, matters=not kept)
        if not contains(text, message.get("reasoning_content", "")):
            yield Loss(number, REASON, matters=False)
        for call in message.get("tool_calls", ()):
            leaves = (call["function"]["name"], *_leaves(call["function"]["arguments"]))
            if not all(contains(text, leaf) for leaf in leaves):
                yield Loss(number, CALL)
    for tool in chat.tools or ():
        if not contains(text, tool["function"]["name"]):
            yield Loss(0, TOOLS)


def _leaves(value: Any) -> Iterator[str]:
    """The texts in a value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value


def contains(text: str, piece: str) -> bool:
    """Whether a rendering contains a text: as it is, escaped as in JSON, or line by line."""
    if piece.strip() in text:
        return True
    escaped = (json.dumps(piece, ensure_ascii=plain)[1:-1] for plain in (False, True))
    if any(form in text for form in escaped):
        return True
    return all(line.strip() in text for line in piece.splitlines())


def places(chat: Conversation, text: str) -> list[tuple[int, int]]:
    """Where each message is in its rendering: from the end of the message before it to the start
    of the next message's text, so that its role and its end belong to it.
    """
    own = []
    cursor = 0
    for message in chat.messages:
        start = end = None
        calls = (call["function"] for call in message.get("tool_calls", ()))
        called = (piece for call in calls for piece in (call["name"], *_leaves(call["arguments"])))
        pieces = (message.get("reasoning_content", ""), message["content"], *called)
        for piece in filter(None, (piece.strip() for piece in pieces)):
            place = text.find(piece, cursor)
            if place >= 0:
                start = place if start is None else min(start, place)
                end = max(end or 0, place + len(piece))
        own.append((cursor if start is None else start, cursor if end is None else end))
        cursor = own[-1][1]
    starts = [0, *(end for _, end in own)]
    ends = [*(start for start, _ in own[1:]), len(text)]
    return list(zip(starts, ends, strict=False))
