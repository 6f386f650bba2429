"""Formats: how a row's columns become one of a few canonical forms.

====================== ===========================================================================
``text``               ``text``: a string
``prompt_completion``  ``prompt``, ``completion``: strings, or both lists of messages
``chat``               ``messages``: a list of ``{role, content}``
``preference``         ``prompt``, ``chosen``, ``rejected``: strings, or lists of messages
``unpaired``           ``prompt``, ``completion`` as above, and ``label``: whether it is good
``prompt``             ``prompt``: a string or a list of messages; all other columns unchanged,
                       for rewards
====================== ===========================================================================

Messages are in the form of :mod:`aligntune.data.messages`. Two more columns are optional:

- ``tools``: the tools of the conversation, in OpenAI's form;
- ``chat_template_args``: arguments of the chat template for this row.

``instruction`` rows (Alpaca's instruction, input, history and output, or Dolly's instruction,
context and response) become ``prompt_completion``: messages where the tokenizer has a chat
template, else Alpaca's prompt (https://github.com/tatsu-lab/stanford_alpaca).

A ``system`` column becomes the system message. It makes a conversation of texts where the tokenizer
has a chat template; otherwise it comes before the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from aligntune.algorithms import takers
from aligntune.data.messages import (
    Ignored,
    Message,
    UnusableError,
    parsed,
    read_messages,
    read_tools,
    refuse_media,
    require_characters,
)
from aligntune.data.sources import Values, kind_of
from aligntune.errors import DataError, shown

ALPACA_PROMPT = (
    "Below is an instruction that describes a task{also}. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n{input}### Response:\n"
)

RESERVED = (
    *("prompts", "completions", "completion", "completion_ids", "trainer_state"),
    *("log_extra", "log_metric", "environments", "image", "images"),
)
"""Columns cannot have these names: rewards receive them beside the data's columns, or the trainer
reads them itself, as TRL reads pictures."""


def detect(values: Values, where: str, allowed: tuple[str, ...]) -> str:
    """Detect the format of a row by its columns, among the formats that the algorithm takes.

    Raises:
        DataError: the row has none of these formats. The message names its format, and the
            algorithms that take it.
    """
    for name in FORMATS:
        if name in allowed and FORMATS[name].fits(values):
            return name
    wanted = "; ".join(FORMATS[name].description for name in FORMATS if name in allowed)
    named = shown(", ".join(map(str, values)), 200)
    other = next((name for name, known in FORMATS.items() if known.fits(values)), None)
    if other and other not in allowed:
        raise DataError(
            f"{where}: this is {other.replace('_', '-')} data (columns {named}), but the algorithm "
            f"needs {wanted}",
            f"Use --algo {takers(other)}, or other data",
        )
    raise DataError(
        f"{where}: columns {named} match no known format ({wanted})",
        "Map the columns, e.g. --set dataset.columns.prompt=question"
        + (" --set dataset.columns.completion=answer" if "prompt_completion" in allowed else ""),
    )


TEXTS = ("text", "messages", "prompt", "completion", "chosen", "rejected")
"""Canonical columns that are a text or a conversation."""

ARGUMENTS = ("chat_template_args", "chat_template_kwargs")
SETTINGS = ("tools", *ARGUMENTS)
OPTIONAL = ("system", *SETTINGS)
"""Columns that rows of every format but ``text`` may have."""


@dataclass(frozen=True)
class Format:
    """A canonical form.

    Attributes:
        description: the columns, for messages.
        columns: the columns a row must have, each with alternative names.
        convert: makes a row canonical, given whether the tokenizer has a chat template, and what
            receives the keys of messages that are not used.
        optional: further columns that are used.
        weighs: whether a message may say that it is not learned.
        keeps_all: whether every column is kept, for rewards.
    """

    description: str
    columns: tuple[tuple[str, ...], ...]
    convert: Callable[[Values, bool, Ignored], dict[str, Any]]
    optional: tuple[str, ...] = OPTIONAL
    weighs: bool = False
    keeps_all: bool = False

    def fits(self, values: Values) -> bool:
        """Whether a row has the columns."""
        return all(any(column in values for column in choice) for choice in self.columns)

    def read(self, values: Values, chat: bool, ignored: Ignored) -> dict[str, Any]:
        """The canonical form of a row.

        Args:
            values: the row's columns.
            chat: whether the tokenizer has a chat template.
            ignored: receives the columns, and keys of messages, that are not used.

        Raises:
            UnusableError: the row is malformed.
        """
        for choice in self.columns:
            if not any(column in values for column in choice):
                there = shown(", ".join(map(str, values)), 200) or "none"
                raise UnusableError(f"no column {choice[0]!r}; columns: {there}")
        row = self.convert(values, chat, ignored)
        refuse_media(values, "the row")
        if "system" in self.optional and "system" in values:
            row = _with_system_column(row, values, chat)
        if self.optional and _is_conversation(row):
            row |= _settings(values)
        if not self.weighs:
            row = _without_weights(row, ignored)
        if not self.keeps_all:
            used = {_name_of(choice, values) for choice in self.columns} | {*self.optional}
            if not _is_conversation(row):
                used -= {*SETTINGS}
            ignored.update(
                ("column", str(name))
                for name, value in values.items()
                if name not in used and value not in (None, "", [])
            )
        return row


def _name_of(choice: tuple[str, ...], values: Values) -> str:
    """The first of several names of a column that a row has."""
    return next(name for name in choice if name in values)


def _is_conversation(row: Mapping[str, Any]) -> bool:
    return any(isinstance(row.get(name), list) for name in TEXTS)


def _settings(values: Values) -> dict[str, Any]:
    """The canonical columns ``tools`` and ``chat_template_args``; only those that a row has."""
    found: dict[str, Any] = {}
    if "tools" in values:
        found["tools"] = read_tools(values["tools"])
    for name in ARGUMENTS:
        arguments = values.get(name)
        if isinstance(arguments, str) and arguments:
            arguments = parsed(arguments, f"column {name!r}")
        if not isinstance(arguments or {}, dict):
            raise UnusableError(f"column {name!r} is {kind_of(arguments)}, not an object")
        given = {key: value for key, value in (arguments or {}).items() if value is not None}
        if name in values:
            found[ARGUMENTS[0]] = given
    return found


def _without_weights(row: dict[str, Any], ignored: Ignored) -> dict[str, Any]:
    """A row whose messages do not say that they are not learned."""
    for name in TEXTS:
        for message in row[name] if isinstance(row.get(name), list) else ():
            if message.pop("learned", None) is not None:
                ignored.update([("message key", "weight or train")])
    return row


def _with_system_column(row: dict[str, Any], values: Values, chat: bool) -> dict[str, Any]:
    """A row with its ``system`` column as a system message, or before the prompt's text."""
    system = values["system"]
    if system is not None:
        system = _string(values, "system")
    key = "messages" if "messages" in row else "prompt"
    if not isinstance(row[key], list):
        if not chat:
            return {**row, key: f"{system}\n\n{row[key]}" if system else row[key]}
        roles = dict.fromkeys(("completion", "chosen", "rejected"), "assistant") | {key: "user"}
        texts = {name: row[name] for name in roles if isinstance(row.get(name), str)}
        row = row | {name: [{"role": roles[name], "content": text}] for name, text in texts.items()}
    if not system:
        return row
    first = row[key][0]
    if first["role"] in ("system", "developer"):
        if first["content"].strip() != system.strip():
            raise UnusableError("the column 'system' differs from the conversation's own system")
        return row
    return {**row, key: [{"role": "system", "content": system}, *row[key]]}


def _text(values: Values, chat: bool, ignored: Ignored) -> dict[str, Any]:
    return {"text": _string(values, "text")}


def _prompt_completion(values: Values, chat: bool, ignored: Ignored) -> dict[str, Any]:
    if isinstance(values["prompt"], list):
        return {key: read_messages(values[key], key, ignored) for key in ("prompt", "completion")}
    return {key: _string(values, key) for key in ("prompt", "completion")}


CHAT_COLUMNS = ("messages", "conversations")


def _chat(values: Values, chat: bool, ignored: Ignored) -> dict[str, Any]:
    column = _name_of(CHAT_COLUMNS, values)
    return {"messages": read_messages(values[column], column, ignored)}


OUTPUTS = ("output", "response")


def _instruction(values: Values, chat: bool, ignored: Ignored) -> dict[str, Any]:
    question = (_string(values, "instruction"), _extra(values))
    output = _string(values, _name_of(OUTPUTS, values))
    history = _history(values)
    if chat:
        turns = [
            {"role": role, "content": text}
            for pair in history
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        asked = {"role": "user", "content": "\n\n".join(part for part in question if part)}
        return {
            "prompt": [*turns, asked],
            "completion": [{"role": "assistant", "content": output}],
        }
    before = "".join(f"{_alpaca(asked, '')}{answer}\n\n" for asked, answer in history)
    return {"prompt": before + _alpaca(*question), "completion": output}


def _alpaca(instruction: str, extra: str) -> str:
    return ALPACA_PROMPT.format(
        also=", paired with an input that provides further context" if extra else "",
        instruction=instruction,
        input=f"### Input:\n{extra}\n\n" if extra else "",
    )


def _extra(values: Values) -> str:
    """Alpaca's input, or Dolly's context."""
    extra = [(name, values[name]) for name in ("input", "context") if values.get(name)]
    for name, value in extra:
        if not isinstance(value, str):
            raise UnusableError(f"column {name!r} is {kind_of(value)}, not text")
    return "\n\n".join(value for _, value in extra)


def _history(values: Values) -> list[tuple[str, str]]:
    """Alpaca's earlier turns: pairs of an instruction and its answer."""
    found = values.get("history") or []
    if not isinstance(found, list) or not all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(text, str) for text in pair)
        for pair in found
    ):
        raise UnusableError("column 'history' is not a list of pairs of an instruction and answer")
    return [(asked, answer) for asked, answer in found]


def _preference(values: Values, chat: bool, ignored: Ignored) -> dict[str, Any]:
    sides = ("chosen", "rejected")
    if not isinstance(values["chosen"], list):
        chosen, rejected = (_string(values, side) for side in sides)
        if "prompt" in values:
            return {"prompt": _string(values, "prompt"), "chosen": chosen, "rejected": rejected}
        shared = _shared_text(chosen, rejected)
        return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
    chosen_turns, rejected_turns = (read_messages(values[side], side, ignored) for side in sides)
    turns: list[Message] = []
    if isinstance(values.get("prompt"), list):
        turns = read_messages(values["prompt"], "prompt", ignored)
    elif "prompt" in values and len(chosen_turns) == len(rejected_turns) == 1:
        turns = [{"role": "user", "content": _string(values, "prompt")}]
    count = len(turns)
    if not count or (chosen_turns[:count] == turns and rejected_turns[:count] == turns):
        # Whole conversations, as in UltraFeedback, which also repeats the prompt as text.
        pairs = zip(chosen_turns, rejected_turns, strict=False)
        count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        count = min(count, len(chosen_turns) - 1, len(rejected_turns) - 1)
        if count < 1:
            raise UnusableError("'chosen' and 'rejected' do not start with the same prompt")
        turns = chosen_turns[:count]
        asked = values.get("prompt")
        if isinstance(asked, str) and not any(asked in turn["content"] for turn in turns):
            ignored.update([("column", "prompt")])
        chosen_turns, rejected_turns = chosen_turns[count:], rejected_turns[count:]
    return {"prompt": turns, "chosen": chosen_turns, "rejected": rejected_turns}


def _shared_text(chosen: str, rejected: str) -> int:
    """Length of the prompt that two texts share; the space before an answer belongs to it."""
    pairs = zip(chosen, rejected, strict=False)
    count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return count - 1 if count and chosen[count - 1] == " " else count


def _unpaired(values: Values, chat: bool, ignored: Ignored) -> dict[str, Any]:
    label = values["label"]
    if isinstance(label, str):
        label = {"true": True, "false": False, "1": True, "0": False}.get(label.lower(), label)
    if label not in (True, False):  # 1 and 0 among them
        raise UnusableError(f"column 'label' is {shown(repr(label))}, not true or false")
    return {**_prompt_completion(values, chat, ignored), "label": bool(label)}


def _prompt(values: Values, chat: bool, ignored: Ignored) -> dict[str, Any]:
    taken = [name for name in RESERVED if name in values]
    if taken:
        raise UnusableError(
            f"the column name {taken[0]!r} has a meaning for the trainer",
            f"Rename the column, e.g. --set dataset.columns.answer={taken[0]}",
        )
    chatty = isinstance(values["prompt"], list)
    prompt = (
        read_messages(values["prompt"], "prompt", ignored) if chatty else _string(values, "prompt")
    )
    kept = {name: value for name, value in values.items() if name not in ARGUMENTS}
    return {**kept, "prompt": prompt}


FORMATS = {
    "preference": Format(
        "prompt, chosen and rejected",
        (("chosen",), ("rejected",)),
        _preference,
        optional=("prompt", *OPTIONAL),
    ),
    "unpaired": Format(
        "prompt, completion and label", (("prompt",), ("completion",), ("label",)), _unpaired
    ),
    "chat": Format("messages", (CHAT_COLUMNS,), _chat, weighs=True),
    "prompt_completion": Format(
        "prompt and completion", (("prompt",), ("completion",)), _prompt_completion, weighs=True
    ),
    "instruction": Format(
        "instruction and output",
        (("instruction",), OUTPUTS),
        _instruction,
        optional=("input", "context", "history", *OPTIONAL),
    ),
    "text": Format("text", (("text",),), _text, optional=()),
    "prompt": Format("prompt", (("prompt",),), _prompt, keeps_all=True),
}
"""In the order in which ``auto`` tries them, the most specific first."""


def _string(values: Values, key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise UnusableError(f"column {key!r} is {kind_of(value)}, not text")
    require_characters(value, f"column {key!r}")
    return value
