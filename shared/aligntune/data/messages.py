"""Messages: a conversation as people store it becomes a list of canonical messages.

A canonical message has a ``role`` and a text ``content``, and further keys only if it has values
for them:

===================== =============================================================================
``reasoning_content`` the reasoning before an answer (also ``reasoning`` or ``thinking``)
``tool_calls``        OpenAI's form, with ``arguments`` as an object (also ``function_call``)
``name``              of the tool that a ``tool`` message answers for, or of a speaker
``tool_call_id``      the call that a ``tool`` message answers
``learned``           False if a weight of 0 says that the message is not learned
===================== =============================================================================

OpenAI's and ShareGPT's forms are read (``from`` and ``value``; ``function_call`` and
``observation`` turns).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aligntune.data.sources import kind_of
from aligntune.errors import shown

Message = dict[str, Any]

Ignored = Counter[tuple[str, str]]
"""What the rows say and nothing uses: ``("column", name)`` or ``("message key", name)``."""

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
}
"""Other names of the roles: ShareGPT's, and OpenAI's older one of ``tool``."""

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of the reasoning of a message, in data and in chat templates."""

MEDIA = ("image", "images", "image_url", "input_image", "audio", "input_audio", "video", "videos")
"""Columns, and types of parts of a message, that are not text."""


class UnusableError(Exception):
    """A row cannot be used; the message says why.

    Args:
        what: why.
        remedy: what to do, if it is not in the row.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


def read_messages(value: Any, key: str, ignored: Ignored) -> list[Message]:
    """A column's messages in canonical form.

    Args:
        value: the column's value.
        key: the column's name, for errors.
        ignored: receives the keys that are not used.

    Raises:
        UnusableError: the value is not a list of messages with a role and text.
    """
    if not isinstance(value, list) or not value:
        raise UnusableError(f"column {key!r} is {kind_of(value)}, not a list of messages")
    messages = []
    for number, message in enumerate(value, 1):
        where = f"message {number} of {key!r}"
        if not isinstance(message, dict):
            raise UnusableError(f"{where} is {kind_of(message)}, not an object")
        left = {name: content for name, content in message.items() if content is not None}
        refuse_media(left, where)
        messages.append(_message(left, where))
        ignored.update(("message key", name) for name, content in left.items() if content != [])
    return messages


def refuse_media(values: Mapping[str, Any], where: str) -> None:
    """Refuse images, audio and video in a row or a message, by name."""
    media = next((name for name in MEDIA if values.get(name) not in (None, "", [])), None)
    if media:
        raise UnusableError(f"{where} has {media!r}, but only text is supported")


def require_characters(text: str, what: str) -> None:
    """Refuse an unpaired surrogate, like JSON's ``\\ud83d`` alone, which has no encoding."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableError(f"{what} contains half a character ({text[error.start]!a})") from None


def read_tools(value: Any) -> list[dict[str, Any]] | None:
    """The ``tools`` column in OpenAI's form; a list, or JSON text of one. None if it is empty.

    Raises:
        UnusableError: the value is not a list of functions with names.
    """
    if isinstance(value, str):
        value = parsed(value, "column 'tools'") if value.strip() else None
    if not value:
        return None
    if not isinstance(value, list):
        raise UnusableError(f"column 'tools' is {kind_of(value)}, not a list of tools")
    tools = []
    for number, tool in enumerate(value, 1):
        if isinstance(tool, str):
            tool = parsed(tool, f"tool {number}")
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UnusableError(f"tool {number} of 'tools' is not a function with a name")
        tools.append({"type": "function", "function": _without_nulls(function)})
    return tools


def is_plain(messages: Any) -> bool:
    """Whether messages have no other keys than role and content."""
    return all(message.keys() <= {"role", "content"} for message in messages)


def _message(left: dict[str, Any], where: str) -> Message:
    """A canonical message; removes what it uses from ``left``."""
    role, content = _first(left, "role", "from"), _first(left, "content", "value")
    if not isinstance(role, str):
        raise UnusableError(f"{where} needs a role and text content")
    calls = _tool_calls(left, where)
    if role == "function_call":
        calls, content = [*calls, *_calls_of_text(content, where)], ""
    role = ROLES.get(role, role)
    reasoning = _first(left, *REASONING)
    if role == "tool" and isinstance(content, dict):
        content = json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        content = _joined(content, where)
    if content is None and (calls or reasoning):
        content = ""
    if not isinstance(content, str):
        raise UnusableError(f"{where} needs a role and text content")
    found: Message = {"role": role, "content": content}
    if reasoning:
        found["reasoning_content"] = _text(reasoning, f"the reasoning of {where}")
    if calls:
        found["tool_calls"] = calls
    for name in ("name", "tool_call_id"):
        if left.get(name) not in (None, ""):
            found[name] = _text(left.pop(name), f"{name!r} of {where}")
    if not _is_learned(left, where):
        found["learned"] = False
    require_characters(json.dumps(found, ensure_ascii=False), where)
    return found


def _first(left: dict[str, Any], *names: str) -> Any:
    """The value under the first of several names; the others stay, unless they repeat it."""
    name = next((name for name in names if name in left), None)
    if name is None:
        return None
    value = left.pop(name)
    for other in names:
        if other in left and left[other] in (value, ""):
            del left[other]
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UnusableError(f"{what} is {kind_of(value)}, not text")
    return value


def _joined(parts: list[Any], where: str) -> str:
    """The text of a content that is a list of parts."""
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            what = f"a part of type {shown(str(kind))}"
            raise UnusableError(
                f"{where} contains {what}, but only text is supported: remove images and other "
                "media"
            )
        texts.append(text)
    return "".join(texts)


def _is_learned(left: dict[str, Any], where: str) -> bool:
    """Whether ``weight`` and ``train`` leave a message to be learned."""
    learned = True
    for name in ("weight", "train"):
        value = left.pop(name, None)
        if value not in (None, True, False):  # 1 and 0 among them
            raise UnusableError(
                f"{name!r} of {where} is {shown(repr(value))}; only 0 and 1 are supported"
            )
        learned = learned and (value is None or bool(value))
    return learned


def _tool_calls(left: dict[str, Any], where: str) -> list[dict[str, Any]]:
    calls, single = left.pop("tool_calls", None) or [], left.pop("function_call", None)
    if isinstance(calls, str):
        calls = parsed(calls, f"'tool_calls' of {where}")
    if not isinstance(calls, list):
        raise UnusableError(f"'tool_calls' of {where} is {kind_of(calls)}, not a list")
    return [_call(call, where) for call in ([*calls, single] if single else calls)]


def _calls_of_text(content: Any, where: str) -> list[dict[str, Any]]:
    """The calls of ShareGPT's ``function_call`` turn, whose text is JSON."""
    value = parsed(content, f"the call in {where}") if isinstance(content, str) else content
    return [_call(call, where) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise UnusableError(f"a tool call in {where} has no name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = (
            parsed(arguments, f"the argument list of {name} in {where}") if arguments else {}
        )
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise UnusableError(f"the arguments of {name} in {where} are not an object")
    own = {"id": call["id"]} if call.get("id") else {}
    return {**own, "type": "function", "function": {"name": name, "arguments": arguments}}


def parsed(text: str, what: str) -> Any:
    """A value of JSON text; ``what`` names it in the error."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableError(f"{what} is not valid JSON") from None


def _without_nulls(value: Any) -> Any:
    """A JSON schema without the nulls that Arrow adds for keys which other rows have."""
    if isinstance(value, Mapping):
        return {
            key: _without_nulls(inner)
            for key, inner in value.items()
            if inner is not None or key == "default"
        }
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
