"""Rows: every format that is read, and every bad row by the file and line it stands in.

Only what needs neither pyarrow nor datasets; the rest is trained on in tests/containers.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.algorithms import ALGORITHMS
from aligntune.data.formats import FORMATS, detect
from aligntune.data.messages import ROLES
from aligntune.data.rows import canonicalise
from aligntune.data.sources import Source, read_rows
from aligntune.errors import DataError
from aligntune.spec.sections import CANONICAL_COLUMNS, DatasetSpec

SFT = ALGORITHMS["sft"].formats

USER = {"role": "user", "content": "What is two plus two?"}
ASSISTANT = {"role": "assistant", "content": "Four."}


def write(folder: Path, name: str, rows: list[Any] | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def canonical(
    path: Path,
    split: str = "train",
    chat: bool = True,
    limit: int | None = None,
    algorithm: str = "sft",
    **spec: Any,
) -> tuple[str, list[dict[str, Any]]]:
    """The format and the canonical rows of a file or folder."""
    wanted = DatasetSpec(name=str(path), **spec)
    allowed = ALGORITHMS[algorithm].formats
    with closing(read_rows(Source(path.name, path), split)) as found:
        name, rows = canonicalise(found, wanted, allowed, chat=chat, limit=limit)
        return name, list(rows)


def refusal(path: Path, split: str = "train", chat: bool = True, **spec: Any) -> str:
    with pytest.raises(DataError) as refused:
        canonical(path, split, chat, **spec)
    message = str(refused.value)
    assert "\n" not in message
    return message


# --- formats


@pytest.mark.parametrize(
    ("row", "name", "becomes"),
    [
        ({"text": "a"}, "text", {"text": "a"}),
        (
            {"prompt": "a", "completion": "b", "id": 3},
            "prompt_completion",
            {"prompt": "a", "completion": "b"},
        ),
        (
            {"prompt": [USER], "completion": [ASSISTANT]},
            "prompt_completion",
            {"prompt": [USER], "completion": [ASSISTANT]},
        ),
        ({"messages": [USER, ASSISTANT]}, "chat", {"messages": [USER, ASSISTANT]}),
        (
            {"messages": [USER, ASSISTANT], "prompt": "a", "prompt_id": "1"},
            "chat",
            {"messages": [USER, ASSISTANT]},
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "What is two plus two?"},
                    {"from": "gpt", "value": "Four."},
                ]
            },
            "chat",
            {"messages": [USER, ASSISTANT]},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            "chat",
            {"messages": [{"role": "user", "content": "a"}]},
        ),
        (
            {"instruction": "Add.", "input": "2+2", "output": "4"},
            "instruction",
            {
                "prompt": [{"role": "user", "content": "Add.\n\n2+2"}],
                "completion": [{"role": "assistant", "content": "4"}],
            },
        ),
    ],
)
def test_a_format_is_detected_by_its_columns_and_becomes_canonical(
    row: dict[str, Any], name: str, becomes: dict[str, Any], tmp_path: Path
) -> None:
    assert canonical(write(tmp_path, "a.jsonl", [row])) == (name, [becomes])


def test_instructions_become_alpaca_s_prompt_where_there_is_no_chat_template(
    tmp_path: Path,
) -> None:
    rows = [
        {"instruction": "Add.", "input": "2+2", "output": "4"},
        {"instruction": "Say hi.", "input": "", "output": "hi"},
        {"instruction": "Say ho.", "input": None, "output": "ho"},
    ]
    _, (with_input, without, null) = canonical(write(tmp_path, "a.jsonl", rows), chat=False)
    assert with_input == {
        "prompt": "Below is an instruction that describes a task, paired with an input that "
        "provides further context. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Input:\n2+2\n\n### Response:\n",
        "completion": "4",
    }
    assert "### Input" not in without["prompt"]
    assert null["prompt"] == without["prompt"].replace("hi", "ho")


def test_a_named_format_wins_over_what_would_be_detected(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"prompt": "a", "completion": "b", "text": "c"}])
    assert canonical(path, format="text") == ("text", [{"text": "c"}])
    assert "no column 'instruction'" in refusal(path, format="instruction")


def test_columns_of_no_known_format_are_named_with_how_to_say_which_is_which(
    tmp_path: Path,
) -> None:
    message = refusal(write(tmp_path, "a.jsonl", [{"question": "a", "answer": "b"}]))
    assert message.startswith("a.jsonl, line 1: columns question, answer match no known format")
    assert "--set dataset.columns.prompt=question" in message


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"question": "a", "answer": "b", "prompt": "not this"}])
    columns = {"prompt": "question", "completion": "answer"}
    assert canonical(path, columns=columns) == (
        "prompt_completion",
        [{"prompt": "a", "completion": "b"}],
    )


def test_one_column_can_stand_for_two(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"line": "a"}])
    columns = {"prompt": "line", "completion": "line"}
    assert canonical(path, columns=columns)[1] == [{"prompt": "a", "completion": "a"}]


def test_a_mapped_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"question": "a", "answer": "b"}])
    message = refusal(path, columns={"prompt": "questoin", "completion": "answer"})
    assert "no column 'questoin'; columns: question, answer; did you mean 'question'?" in message


def test_every_format_s_columns_can_be_mapped() -> None:
    named = {column for known in FORMATS.values() for choice in known.columns for column in choice}
    assert named <= set(CANONICAL_COLUMNS)


def test_the_system_prompt_comes_first_unless_a_conversation_has_its_own(tmp_path: Path) -> None:
    own = {"role": "system", "content": "Be brief."}
    path = write(tmp_path, "a.jsonl", [{"messages": [USER]}, {"messages": [own, USER]}])
    _, (first, second) = canonical(path, system_prompt="Be kind.")
    assert first["messages"] == [{"role": "system", "content": "Be kind."}, USER]
    assert second["messages"] == [own, USER]


def test_the_system_prompt_reaches_prompts_made_of_messages(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    path = write(tmp_path, "a.jsonl", [{"prompt": [USER], "completion": [ASSISTANT]}])
    assert canonical(path, system_prompt="Be kind.")[1][0]["prompt"] == [system, USER]
    path = write(tmp_path, "b.jsonl", [{"instruction": "Add.", "output": "4"}])
    assert canonical(path, system_prompt="Be kind.")[1][0]["prompt"][0] == system


@pytest.mark.parametrize(
    ("row", "chat"),
    [
        ({"text": "a"}, True),
        ({"prompt": "a", "completion": "b"}, True),
        ({"instruction": "a", "output": "b"}, False),
    ],
)
def test_a_system_prompt_for_what_is_no_conversation_is_refused_and_not_dropped(
    row: dict[str, Any], chat: bool, tmp_path: Path
) -> None:
    message = refusal(write(tmp_path, "a.jsonl", [row]), chat=chat, system_prompt="Be kind.")
    assert "dataset.system_prompt needs conversations" in message


def test_no_more_rows_are_read_than_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "b"}\nnot JSON\n')
    assert canonical(path, limit=2)[1] == [{"text": "a"}, {"text": "b"}]


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from([*ROLES, "user", "system", "tool"]), st.text()), min_size=1
        ),
        min_size=1,
    )
)
def test_what_is_canonical_stays_as_it_is(conversations: list[list[tuple[str, str]]]) -> None:
    rows = [
        ("row", {"conversations": [{"from": role, "value": text} for role, text in turns]})
        for turns in conversations
    ]
    spec = DatasetSpec(name="d")
    try:
        once = list(canonicalise(rows, spec, SFT, chat=True)[1])
    except DataError:
        return  # half a character, see below
    again = list(canonicalise((("row", row) for row in once), spec, SFT, chat=True)[1])
    assert again == once


# --- bad rows


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ('{"text": "a"}\n\n\n{"text" "b"}\n', "a.jsonl, line 4: not valid JSON"),
        ('{"text": "a"} {"text": "b"}\n', "a.jsonl, line 1: not valid JSON (Extra data"),
        ('"text"\n', "a.jsonl, line 1: text, not an object of columns"),
        ("[1]\n", "a.jsonl, line 1: a list, not an object of columns"),
        ('{"text": "a"}\n{"text": 3}\n', "line 2: column 'text' is a int, not text"),
        ('{"text": "a"}\n{"text": null}\n', "line 2: column 'text' is empty, not text"),
        ('{"text": "a"}\n{"txt": "b"}\n', "line 2: no column 'text'; columns: txt"),
        ('{"text": "a"}\n{}\n', "line 2: no column 'text'; columns: none"),
        ('{"text": "a"}\n{"text": "\\ud83d"}\n', "line 2: column 'text' contains half a character"),
        ('{"text": "' + "9" * 10 + '", "n": ' + "9" * 5000 + "}\n", "line 1: not valid JSON"),
        ("[" * 100_000 + "\n", "line 1: not valid JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(text: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(write(tmp_path, "a.jsonl", text))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("hello", "message 2 of 'messages' is text, not an object"),
        ({"role": "assistant"}, "message 2 of 'messages' needs a role and text content"),
        ({"content": "a"}, "message 2 of 'messages' needs a role"),
        ({"role": "assistant", "content": None}, "needs a role and text content"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"arguments": {}}]},
            "a tool call in message 2 of 'messages' has no name",
        ),
        (
            {"role": "user", "content": [{"type": "image", "image": "a.png"}]},
            "contains a part of type image, but only text is supported",
        ),
        (
            {"role": "user", "content": "a", "images": ["a.png"]},
            "message 2 of 'messages' has 'images', but only text is supported",
        ),
        (
            {"role": "assistant", "content": "a", "weight": 0.5},
            "'weight' of message 2 of 'messages' is 0.5; only 0 and 1 are supported",
        ),
        (
            {"role": "assistant", "function_call": {"name": "f", "arguments": "[1"}},
            "the argument list of f in message 2 of 'messages' is not valid JSON",
        ),
        (
            {"role": "user", "content": "\ud83d"},
            "message 2 of 'messages' contains half a character",
        ),
    ],
)
def test_a_bad_message_is_named_with_its_row_and_place(
    message: Any, says: str, tmp_path: Path
) -> None:
    path = write(tmp_path, "a.jsonl", [{"messages": [USER]}, {"messages": [USER, message]}])
    found = refusal(path)
    assert found.startswith("a.jsonl, line 2: ")
    assert says in found


@pytest.mark.parametrize("value", ["What is it?", [], None, {"role": "user"}])
def test_messages_that_are_no_list_are_refused(value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"messages": value}])
    assert "not a list of messages" in refusal(path)


def test_tools_that_are_no_functions_are_refused_by_number(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"messages": [USER], "tools": [{"nom": "f"}]}])
    message = "a.jsonl, line 1: tool 1 of 'tools' is not a function with a name. Fix that row"
    assert refusal(path) == message


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"text": "a"}, "line 2: no column 'prompt'"),
        ({"prompt": "a", "completion": "b"}, "line 2: a row of completion str, prompt str among"),
        ({"prompt": [USER], "completion": "b"}, "line 2: column 'completion' is text"),
    ],
)
@pytest.mark.parametrize("system_prompt", [None, "Be kind."])
def test_rows_of_mixed_formats_are_refused_at_the_first_that_differs(
    second: dict[str, Any], says: str, system_prompt: str | None, tmp_path: Path
) -> None:
    rows = [{"prompt": [USER], "completion": [ASSISTANT]}, second, {"other": 1}]
    message = refusal(write(tmp_path, "a.jsonl", rows), system_prompt=system_prompt)
    assert says in message
    assert "line 3" not in message


def test_data_that_is_not_utf_8_is_named_with_its_line_however_far_in(tmp_path: Path) -> None:
    good = b'{"text": "' + b"a" * 90 + b'"}\n'
    (tmp_path / "a.jsonl").write_bytes(good * 999 + b'{"text": "caf\xe9"}\n' + good)
    assert "a.jsonl, line 1000: not UTF-8 text. Save it as UTF-8" in refusal(tmp_path / "a.jsonl")


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert canonical(tmp_path / "a.jsonl")[1] == [{"text": "a"}, {"text": "b"}]


def test_line_separators_within_a_text_end_no_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert canonical(tmp_path / "a.jsonl")[1] == [{"text": "a\u2028b\x85c"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_has_no_rows(name: str, text: str, tmp_path: Path) -> None:
    assert canonical(write(tmp_path, name, text))[1] == []


# --- JSON and CSV


def test_json_is_a_list_of_rows_or_one_object_a_line(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b"}]
    listed = write(tmp_path, "a.json", json.dumps(rows, indent=2))
    lines = write(tmp_path, "b.json", rows)
    assert canonical(listed)[1] == canonical(lines)[1] == rows


def test_a_bad_row_of_a_json_list_is_named_with_its_number(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '[{"text": "a"}, {"text": 3}]')
    assert "a.json, row 2: column 'text'" in refusal(path)
    path = write(tmp_path, "b.json", '[\n{"text": "a"},\n{"text": }\n]')
    assert "b.json, row 2: not valid JSON (Expecting value at line 3, column 10)" in refusal(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"text": "a"},]', "a.json, row 2: not valid JSON (Expecting value at column 16)"),
        ('[{"text": "a"} {"text": "b"}]', "a.json, row 1: not valid JSON (Expecting ',' delimiter"),
        ('[{"text": "a"}', "a.json, row 1: not valid JSON (Expecting ',' delimiter"),
        ('[{"text": "a"}] 3', "a.json: not valid JSON (Extra data at column 17)"),
        ("[", "a.json, row 1: not valid JSON (Expecting value"),
    ],
)
def test_what_is_wrong_with_a_json_list_is_named(text: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(write(tmp_path, "a.json", text))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n', "a.jsonl, line 2: two values"),
        ("a.json", '[{"text": "a"},\n{"text": "b", "text": "c"}]', "a.json, row 2: two values"),
        ("a.csv", "text,id,text\na,1,b\n", "a.csv, line 1: two values"),
        ("a.tsv", "text\ttext\na\tb\n", "a.tsv, line 1: two values"),
    ],
)
def test_of_two_columns_with_one_name_neither_is_dropped_in_silence(
    name: str, text: str, says: str, tmp_path: Path
) -> None:
    assert f"{says} are named 'text'" in refusal(write(tmp_path, name, text))


def test_a_key_that_a_message_has_twice_is_refused(tmp_path: Path) -> None:
    text = '{"messages": [{"role": "user", "content": "a", "content": "b"}]}\n'
    assert "line 1: two values are named 'content'" in refusal(write(tmp_path, "a.jsonl", text))


def test_one_json_object_over_many_lines_is_refused_as_what_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", json.dumps({"data": [{"text": "a"}]}, indent=2))
    assert "a.json is one JSON object" in refusal(path)


def test_csv_rows_are_columns_of_text_and_may_span_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'prompt,completion\n"a\nb",c\n3,"d ""e"""\n')
    assert canonical(path)[1] == [
        {"prompt": "a\nb", "completion": "c"},
        {"prompt": "3", "completion": 'd "e"'},
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "prompt,completion\na,b\nc\n",
            "a.csv, line 3: the number of fields differs from the number of columns",
        ),
        (
            "prompt,completion\na,b,c\n",
            "a.csv, line 2: the number of fields differs from the number of columns",
        ),
        ('prompt,completion\n"a"b,c\n', "a.csv, line 2: not valid CSV"),
        ("prompt;completion\na;b\n", "columns prompt;completion match no known format"),
    ],
)
def test_a_bad_csv_line_is_named(text: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(write(tmp_path, "a.csv", text))


# --- files, folders and their splits


def test_a_file_is_one_split(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"text": "a"}])
    assert "a.jsonl is one file and has no split 'test'" in refusal(path, split="test")


def test_what_is_not_there_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    assert "no such dataset: a.jsonl" in refusal(tmp_path / "a.jsonl")
    message = refusal(write(tmp_path, "a.txt", "hello"))
    assert "a.txt: .txt is not a known format" in message
    assert ".jsonl" in message
    (tmp_path / "empty").mkdir()
    assert "empty contains no .jsonl, .ndjson, .json, " in refusal(tmp_path / "empty")


def test_a_bad_line_in_a_folder_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path, "set/a.jsonl", [{"text": "a"}])
    write(tmp_path, "set/deep/b.jsonl", [{"text": "a"}, {"prompt": "b"}])
    assert "deep/b.jsonl, line 2: no column 'text'" in refusal(tmp_path / "set")


def test_detection_prefers_conversations_to_their_flattened_copy() -> None:
    assert detect({"messages": [], "text": ""}, "row 1", SFT) == "chat"
    assert detect({"messages": [], "chosen": [], "rejected": []}, "row 1", SFT) == "chat"


# --- preferences, feedback and prompts

OTHER = {"role": "assistant", "content": "Five."}


@pytest.mark.parametrize(
    ("row", "becomes"),
    [
        (
            {"prompt": "2+2=", "chosen": "4", "rejected": "5", "id": 1},
            {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
        ),
        (
            {"chosen": "2 + 2 is 4", "rejected": "2 + 2 is 5"},
            {"prompt": "2 + 2 is", "chosen": " 4", "rejected": " 5"},
        ),
        (
            {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
            {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
        ),
        (  # whole conversations, without a prompt of their own or with a copy of it
            {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
            {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
        ),
        (
            {
                "prompt": USER["content"],
                "chosen": [USER, ASSISTANT],
                "rejected": [USER, OTHER],
                "messages": [USER, ASSISTANT],
            },
            {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
        ),
        (
            {"prompt": [USER], "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
            {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
        ),
        (
            {"prompt": USER["content"], "chosen": [ASSISTANT], "rejected": [OTHER]},
            {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
        ),
        (  # the same answer twice is still an answer
            {"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]},
            {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [ASSISTANT]},
        ),
    ],
)
def test_a_pair_becomes_a_prompt_and_two_answers(
    row: dict[str, Any], becomes: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path, "pairs.jsonl", [row])
    assert canonical(path, algorithm="dpo") == ("preference", [becomes])


@pytest.mark.parametrize(
    ("label", "good"), [(True, True), (False, False), (1, True), ("False", False), ("1", True)]
)
def test_feedback_is_good_or_bad_however_it_is_written(
    label: Any, good: bool, tmp_path: Path
) -> None:
    path = write(tmp_path, "d.jsonl", [{"prompt": "a", "completion": "b", "label": label}])
    assert canonical(path, algorithm="kto")[1] == [
        {"prompt": "a", "completion": "b", "label": good}
    ]


def test_prompts_keep_every_further_column_for_rewards(tmp_path: Path) -> None:
    rows = [
        {"prompt": [USER], "answer": "4", "tests": ["assert True"]},
        {"prompt": [USER], "answer": None, "tests": []},
    ]
    path = write(tmp_path, "prompts.jsonl", rows)
    assert canonical(path, algorithm="grpo") == ("prompt", rows)
    question = write(tmp_path, "q.jsonl", [{"question": "a", "solution": "b"}])
    columns = {"prompt": "question", "answer": "solution"}
    assert canonical(question, algorithm="ppo", columns=columns)[1] == [
        {"prompt": "a", "answer": "b"}
    ]


@pytest.mark.parametrize(
    ("algorithm", "row", "says"),
    [
        (
            "sft",
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "this is preference data (columns prompt, chosen, rejected), but the algorithm needs "
            "messages; prompt and completion; instruction and output; text. "
            "Use --algo dpo or reward, or other data",
        ),
        ("dpo", {"prompt": "a", "completion": "b"}, "this is prompt-completion data"),
        (
            "dpo",
            {"messages": []},
            "the algorithm needs prompt, chosen and rejected. Use --algo sft",
        ),
        ("dpo", {"prompt": "a", "completion": "b", "label": True}, "this is unpaired data"),
        ("kto", {"prompt": "a", "chosen": "b", "rejected": "c"}, "this is preference data"),
        ("grpo", {"question": "a"}, "no known format (prompt). Map the columns, e.g. --set"),
        ("grpo", {"prompt": "a", "completions": "b"}, "dataset.columns.answer=completions"),
        (
            "grpo",
            {"prompt": "a", "completion": "b"},
            "the column name 'completion' has a meaning for the trainer",
        ),
        ("kto", {"prompt": "a", "completion": "b", "label": "maybe"}, "not true or false"),
        ("dpo", {"chosen": [USER], "rejected": [OTHER]}, "do not start with the same prompt"),
        ("dpo", {"prompt": "a", "chosen": None, "rejected": "c"}, "column 'chosen' is empty"),
        ("dpo", {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}, "not an object"),
    ],
)
def test_rows_that_an_algorithm_cannot_take_are_refused_with_what_it_can(
    algorithm: str, row: dict[str, Any], says: str, tmp_path: Path
) -> None:
    assert says in refusal(write(tmp_path, "d.jsonl", [row]), algorithm=algorithm)


def test_a_column_that_only_a_later_row_has_is_not_dropped_in_silence(tmp_path: Path) -> None:
    path = write(tmp_path, "d.jsonl", [{"prompt": "a"}, {"prompt": "b", "answer": "c"}])
    assert "line 2: the column 'answer' is missing in the first row" in refusal(
        path, algorithm="grpo"
    )


def test_a_system_prompt_begins_the_prompts_of_conversations_only(tmp_path: Path) -> None:
    chat = write(tmp_path, "chat.jsonl", [{"prompt": [USER]}])
    row = canonical(chat, algorithm="grpo", system_prompt="Be brief.")[1][0]
    assert row["prompt"][0] == {"role": "system", "content": "Be brief."}
    text = write(tmp_path, "text.jsonl", [{"prompt": "a"}])
    assert "needs conversations" in refusal(text, algorithm="grpo", system_prompt="Be brief.")
