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

``instruction`` rows (instruction, optional input, output) become ``prompt_completion``: messages
where the tokenizer has a chat template, else Alpaca's prompt
(https://github.com/tatsu-lab/stanford_alpaca).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from aligntune.algorithms import takers
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


class UnusableError(Exception):
    """A row cannot be used; the message says why."""


@dataclass(frozen=True)
class Format:
    """A canonical form.

    Attributes:
        description: the columns, for messages.
        columns: the columns a row must have, each with alternative names.
        convert: makes a row canonical, given whether the tokenizer has a chat template.
    """

    description: str
    columns: tuple[tuple[str, ...], ...]
    convert: Callable[[Values, bool], dict[str, Any]]

    def fits(self, values: Values) -> bool:
        """Whether a row has the columns."""
        return all(any(column in values for column in choice) for choice in self.columns)


def _text(values: Values, chat: bool) -> dict[str, Any]:
    return {"text": _string(values, "text")}


def _prompt_completion(values: Values, chat: bool) -> dict[str, Any]:
    if isinstance(values["prompt"], list):
        return {key: _messages(values[key], key) for key in ("prompt", "completion")}
    return {key: _string(values, key) for key in ("prompt", "completion")}


def _chat(values: Values, chat: bool) -> dict[str, Any]:
    column = "messages" if "messages" in values else "conversations"
    if values.get("tools"):
        raise UnusableError("tools are not supported")
    return {"messages": _messages(values[column], column)}


def _instruction(values: Values, chat: bool) -> dict[str, Any]:
    instruction, output = _string(values, "instruction"), _string(values, "output")
    extra = values.get("input") or ""
    if not isinstance(extra, str):
        raise UnusableError(f"column 'input' is {kind_of(extra)}, not text")
    if chat:
        question = f"{instruction}\n\n{extra}" if extra else instruction
        return {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": output}],
        }
    prompt = ALPACA_PROMPT.format(
        also=", paired with an input that provides further context" if extra else "",
        instruction=instruction,
        input=f"### Input:\n{extra}\n\n" if extra else "",
    )
    return {"prompt": prompt, "completion": output}


def _preference(values: Values, chat: bool) -> dict[str, Any]:
    sides = ("chosen", "rejected")
    if not isinstance(values["chosen"], list):
        chosen, rejected = (_string(values, side) for side in sides)
        if "prompt" in values:
            return {"prompt": _string(values, "prompt"), "chosen": chosen, "rejected": rejected}
        shared = _shared_text(chosen, rejected)
        return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
    chosen_turns, rejected_turns = (_messages(values[side], side) for side in sides)
    turns: list[dict[str, str]] = []
    if isinstance(values.get("prompt"), list):
        turns = _messages(values["prompt"], "prompt")
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
        chosen_turns, rejected_turns = chosen_turns[count:], rejected_turns[count:]
    return {"prompt": turns, "chosen": chosen_turns, "rejected": rejected_turns}


def _shared_text(chosen: str, rejected: str) -> int:
    """Length of the prompt that two texts share; the space before an answer belongs to it."""
    pairs = zip(chosen, rejected, strict=False)
    count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return count - 1 if count and chosen[count - 1] == " " else count


def _unpaired(values: Values, chat: bool) -> dict[str, Any]:
    label = values["label"]
    if isinstance(label, str):
        label = {"true": True, "false": False, "1": True, "0": False}.get(label.lower(), label)
    if label not in (True, False):  # 1 and 0 among them
        raise UnusableError(f"column 'label' is {shown(repr(label))}, not true or false")
    return {**_prompt_completion(values, chat), "label": bool(label)}


def _prompt(values: Values, chat: bool) -> dict[str, Any]:
    taken = [name for name in RESERVED if name in values]
    if taken:
        raise UnusableError(
            f"the column name {taken[0]!r} has a meaning for the trainer; rename the column, "
            f"e.g. --set dataset.columns.answer={taken[0]}"
        )
    chatty = isinstance(values["prompt"], list)
    prompt = _messages(values["prompt"], "prompt") if chatty else _string(values, "prompt")
    return {**values, "prompt": prompt}


FORMATS = {
    "preference": Format("prompt, chosen and rejected", (("chosen",), ("rejected",)), _preference),
    "unpaired": Format(
        "prompt, completion and label", (("prompt",), ("completion",), ("label",)), _unpaired
    ),
    "chat": Format("messages", (("messages", "conversations"),), _chat),
    "prompt_completion": Format(
        "prompt and completion", (("prompt",), ("completion",)), _prompt_completion
    ),
    "instruction": Format("instruction and output", (("instruction",), ("output",)), _instruction),
    "text": Format("text", (("text",),), _text),
    "prompt": Format("prompt", (("prompt",),), _prompt),
}
"""In the order in which ``auto`` tries them, the most specific first."""

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}
"""ShareGPT's names of the roles."""


def require_columns(values: Values, name: str) -> None:
    """Refuse a row without a column of its format."""
    for choice in FORMATS[name].columns:
        if not any(column in values for column in choice):
            there = shown(", ".join(map(str, values)), 200) or "none"
            raise UnusableError(f"no column {choice[0]!r}; columns: {there}")


def _string(values: Values, key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise UnusableError(f"column {key!r} is {kind_of(value)}, not text")
    _require_characters(value, f"column {key!r}")
    return value


def _require_characters(text: str, what: str) -> None:
    """Refuse an unpaired surrogate, like JSON's ``\\ud83d`` alone, which has no encoding."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableError(f"{what} contains half a character ({text[error.start]!a})") from None


def _messages(value: Any, key: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise UnusableError(f"column {key!r} is {kind_of(value)}, not a list of messages")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise UnusableError(f"message {number} of {key!r} is {kind_of(message)}, not an object")
        if message.get("tool_calls"):
            raise UnusableError(f"message {number} of {key!r} calls tools, which is not supported")
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if isinstance(content, list):
            content = _joined(content, number, key)
        if not isinstance(role, str) or not isinstance(content, str):
            raise UnusableError(f"message {number} of {key!r} needs a role and text content")
        _require_characters(role + content, f"message {number} of {key!r}")
        messages.append({"role": ROLES.get(role, role), "content": content})
    return messages


def _joined(parts: list[Any], number: int, key: str) -> str:
    found = (part.get("text") if isinstance(part, dict) else None for part in parts)
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) != len(parts):
        raise UnusableError(
            f"message {number} of {key!r} contains more than text, which is not supported"
        )
    return "".join(texts)
