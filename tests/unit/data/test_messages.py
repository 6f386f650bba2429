"""Messages: what people store in conversations, and what is said about the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aligntune.data.formats import FORMATS
from aligntune.data.messages import Ignored, UnusableError

USER = {"role": "user", "content": "What is two plus two?"}
ASSISTANT = {"role": "assistant", "content": "Four."}
SYSTEM = {"role": "system", "content": "Be brief."}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"name": "add", "description": "Adds.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [ADD]}
RESULT = {"role": "tool", "content": "4"}


def read(
    row: dict[str, Any], name: str = "chat", chat: bool = True
) -> tuple[dict[str, Any], dict[tuple[str, str], int]]:
    """The canonical form of a row, and what of it is not used."""
    ignored = Ignored()
    return FORMATS[name].read(row, chat, ignored), dict(ignored)


@pytest.mark.parametrize(
    ("message", "becomes"),
    [
        ({**CALL, "content": None}, CALL),
        ({**CALL, "tool_calls": [{"name": "add", "arguments": '{"a": 2}'}]}, CALL),
        ({"role": "assistant", "function_call": {"name": "add", "arguments": '{"a": 2}'}}, CALL),
        ({"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'}, CALL),
        ({"from": "observation", "value": "4"}, RESULT),
        ({"role": "function", "name": "add", "content": "4"}, {**RESULT, "name": "add"}),
        ({"role": "tool", "content": {"sum": 4}}, {"role": "tool", "content": '{"sum": 4}'}),
        ({**ASSISTANT, "thinking": "2+2"}, {**ASSISTANT, "reasoning_content": "2+2"}),
        ({**ASSISTANT, "reasoning": "2+2"}, {**ASSISTANT, "reasoning_content": "2+2"}),
        ({**ASSISTANT, "weight": 0}, {**ASSISTANT, "learned": False}),
        ({**ASSISTANT, "train": False}, {**ASSISTANT, "learned": False}),
        ({**ASSISTANT, "weight": 1, "train": True}, ASSISTANT),
        ({**ASSISTANT, "tool_calls": None, "weight": None}, ASSISTANT),
        ({"role": "developer", "content": "Hm"}, {"role": "developer", "content": "Hm"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]},
            {"role": "user", "content": "ab"},
        ),
    ],
)
def test_each_form_of_a_message_becomes_canonical_and_is_used_whole(
    message: dict[str, Any], becomes: dict[str, Any]
) -> None:
    assert read({"messages": [USER, message]}) == ({"messages": [USER, becomes]}, {})


@pytest.mark.parametrize(
    "tools", [TOOLS, [FUNCTION], json.dumps(TOOLS), [json.dumps(FUNCTION)]], ids=str
)
def test_each_form_of_tools_becomes_openai_s(tools: Any) -> None:
    assert read({"messages": [USER, CALL], "tools": tools})[0]["tools"] == TOOLS


def test_what_nothing_uses_is_counted() -> None:
    row = {"messages": [USER, {**ASSISTANT, "mood": "fine"}], "id": 3, "note": None, "empty": ""}
    assert read(row) == (
        {"messages": [USER, ASSISTANT]},
        {("column", "id"): 1, ("message key", "mood"): 1},
    )


def test_weights_outside_of_sft_are_counted() -> None:
    row = {"prompt": [USER], "chosen": [{**ASSISTANT, "weight": 0}], "rejected": [ASSISTANT]}
    canonical, ignored = read(row, "preference")
    assert canonical["chosen"] == [ASSISTANT]
    assert ignored == {("message key", "weight or train"): 1}


def test_a_prompt_that_is_in_neither_conversation_is_counted() -> None:
    turns = {"chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "Five."}]}
    assert read({"prompt": USER["content"], **turns}, "preference")[1] == {}
    assert read({"prompt": "Hm", **turns}, "preference")[1] == {("column", "prompt"): 1}


def test_a_system_column_becomes_the_system_message() -> None:
    row = {"system": "Be brief.", "messages": [USER, ASSISTANT]}
    assert read(row) == ({"messages": [SYSTEM, USER, ASSISTANT]}, {})
    assert read({**row, "system": ""})[0] == {"messages": [USER, ASSISTANT]}
    assert read({**row, "messages": [SYSTEM, USER]})[0] == {"messages": [SYSTEM, USER]}
    with pytest.raises(UnusableError, match="differs from the conversation's own"):
        read({**row, "system": "Be long."} | {"messages": [SYSTEM, USER]})


def test_a_system_column_makes_a_conversation_of_texts_where_there_is_a_chat_template() -> None:
    row = {"system": "Be brief.", "prompt": "a", "chosen": "b", "rejected": "c"}
    assert read(row, "preference")[0] == {
        "prompt": [SYSTEM, {"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "c"}],
    }
    assert read(row, "preference", chat=False)[0]["prompt"] == "Be brief.\n\na"


def test_alpaca_s_history_and_dolly_s_columns_are_read() -> None:
    alpaca = {"instruction": "Add.", "input": "2+2", "output": "4", "history": [["Hi", "Ho"]]}
    prompt = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Add.\n\n2+2"},
    ]
    completion = [{"role": "assistant", "content": "4"}]
    assert read(alpaca, "instruction") == ({"prompt": prompt, "completion": completion}, {})
    text = read(alpaca, "instruction", chat=False)[0]["prompt"]
    assert text.index("Hi") < text.index("Ho") < text.index("2+2")
    dolly = {"instruction": "Add.", "context": "2+2", "response": "4", "category": "sums"}
    assert read(dolly, "instruction") == (
        {"prompt": prompt[2:], "completion": completion},
        {("column", "category"): 1},
    )


def test_arguments_of_the_template_are_read_under_both_names() -> None:
    row = {"messages": [USER, ASSISTANT]}
    for name in ("chat_template_args", "chat_template_kwargs"):
        for value in ({"enable_thinking": False, "other": None}, '{"enable_thinking": false}'):
            found = read({**row, name: value})[0]
            assert found["chat_template_args"] == {"enable_thinking": False}
    with pytest.raises(UnusableError, match="is a int, not an object"):
        read({**row, "chat_template_args": 3})


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        *((name, "chat") for name in ("image", "images", "audio", "video")),
        *((name, "prompt") for name in ("audio", "video")),  # and the others, even if empty
    ],
)
def test_media_columns_are_refused_by_name(name: str, format_name: str) -> None:
    row = {"messages": [USER, ASSISTANT], "prompt": "a", name: "a.png"}
    with pytest.raises(UnusableError, match=f"the row has '{name}', but only text is supported"):
        read(row, format_name)
    read({**row, name: None}, format_name)


def test_columns_for_rewards_stay_as_they_are() -> None:
    row = {"prompt": "a", "answer": 4, "tools": "hammer", "id": 1}
    assert read(row, "prompt") == (row, {})
