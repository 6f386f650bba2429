"""Check every row of a conversation against the chat template and the tools that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aligntune.errors import AligntuneError, DataError
from aligntune.worker.text.rendering import DEVELOPER, Conversation, Renderer, conversation

Row = Mapping[str, Any]


class RenderedRows:
    """Checks that a chat template renders everything that a row says.

    A row is refused if a content, a tool call or the tools are left out. What a conversation makes
    sense without, such as the reasoning of earlier turns, is counted.

    Args:
        make_renderer: the renderer of rows like the first one.
    """

    def __init__(self, make_renderer: Callable[[Row], Renderer]) -> None:
        self._make_renderer = make_renderer
        self._renderer: Renderer | None = None
        self._counted: Counter[str] = Counter()

    def __call__(self, where: str, row: Row) -> None:
        """See :class:`aligntune.data.rows.Check`."""
        renderer = self._renderer = self._renderer or self._make_renderer(row)
        seen = set()
        for chat in _conversations(row):
            _require_valid_calls(where, chat)
            try:
                losses = renderer.losses(chat)
            except AligntuneError as error:
                raise type(error)(f"{where}: {error.what}", error.remedy) from error
            for loss in losses:
                if loss.matters:
                    raise DataError(
                        f"{where}: the chat template leaves out {loss}",
                        "Set model.chat_template to a template that renders it, or remove it from "
                        "the data",
                    )
                seen.add(f"the chat template leaves out {loss.what}")
            seen |= {
                f"the chat template does not read the argument {name!r}"
                for name in chat.arguments
                if not renderer.reads(name)
            }
            if _has_developer(chat) and not renderer.reads(DEVELOPER):
                seen.add("developer messages are rendered as system messages")
        self._counted.update(seen)

    def notes(self) -> tuple[str, ...]:
        """What was left out or changed, and in how many rows."""
        return tuple(f"{what} (in {count} rows)" for what, count in self._counted.items())


def _has_developer(chat: Conversation) -> bool:
    return any(message["role"] == DEVELOPER for message in chat.messages)


def _conversations(row: Row) -> Iterator[Conversation]:
    """The conversations of a canonical row; none if it is text."""
    if "messages" in row:
        yield conversation(row, "messages")
    elif isinstance(row.get("prompt"), list):
        answers = [name for name in ("completion", "chosen", "rejected") if name in row]
        for name in answers:
            yield conversation(row, "prompt", name)
        if not answers:
            yield conversation(row, "prompt", asks=True)


def _require_valid_calls(where: str, chat: Conversation) -> None:
    """Refuse calls of tools that the row does not have, or whose arguments break their schema."""
    if not chat.tools:
        return
    tools = {tool["function"]["name"]: tool["function"] for tool in chat.tools}
    for number, message in enumerate(chat.messages, 1):
        for call in message.get("tool_calls", ()):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            if name not in tools:
                raise DataError(
                    f"{where}: message {number} calls the tool {name!r}, but the row's tools are "
                    f"{', '.join(tools)}",
                    "Add the tool to the row, or fix the name",
                )
            problem = _problem(arguments, tools[name].get("parameters"))
            if problem:
                raise DataError(
                    f"{where}: the arguments of {name} in message {number} do not fit its schema: "
                    f"{problem}",
                    "Fix the arguments, or the tool's parameters",
                )


def _problem(arguments: Mapping[str, Any], schema: Any) -> str | None:
    """Why arguments do not fit a JSON schema; None if they do, or if there is no schema."""
    import jsonschema
    import referencing

    if not isinstance(schema, dict):
        return None
    validator = jsonschema.validators.validator_for(schema)
    try:
        validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"the schema itself is not valid: {error.message}"
    local = referencing.Registry()  # references to other documents are not fetched
    try:
        errors = list(validator(schema, registry=local).iter_errors(arguments))
    except referencing.exceptions.Unresolvable as error:
        return f"the schema itself refers to what is not in it: {error}"
    worst = jsonschema.exceptions.best_match(errors)
    if worst is None:
        return None
    place = "".join(f"[{part!r}]" for part in worst.path)
    return f"{place}{': ' if place else ''}{worst.message}"
