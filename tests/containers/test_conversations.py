"""Conversations: all that a row says is learned, refused or reported, and a trained model stops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from tests.containers.runs import ROOT, Bench, in_image

ENDLESS = "have no learned token that ends generation"


@pytest.fixture(scope="module")
def printed(engine: Any, image: Callable[[str, str], str], bench: Bench) -> Callable[..., Any]:
    """``printed(script, backend, flavour)``: what a script of this folder prints in an image."""

    def run(name: str, backend: str = "trl", flavour: str = "cpu") -> Any:
        for script in ("templates.py", name):
            shutil.copy(ROOT / "tests" / "containers" / script, bench.folder)
        words = in_image(image(backend, flavour), bench.folder / name, bench)
        return json.loads(words.splitlines()[-1])

    return run


@pytest.mark.parametrize(("backend", "flavour"), [("trl", "cpu"), ("unsloth", "cuda")])
def test_every_template_of_trl_renders_refuses_or_reports_every_shape_and_ends_every_answer(
    backend: str, flavour: str, printed: Callable[..., Any]
) -> None:
    found = printed("templates.py", backend, flavour)
    assert found["failed"] == {}
    assert found["cases"] > 33 * 30


@pytest.fixture(scope="module")
def encoded(printed: Callable[..., Any]) -> Any:
    return printed("conversations.py")


def test_a_message_of_weight_0_is_not_learned(encoded: Any) -> None:
    for case in ("weight 0", "weight 0, assistant only"):
        assert "badness" in encoded[case]["input_ids"]
        assert "badness" not in encoded[case]["learned"]
        assert "answer<|im_end|>" in encoded[case]["learned"]


def test_tools_and_calls_reach_every_kind_of_trainer(encoded: Any) -> None:
    assert '{"name": "add", "arguments": {"a": 1}}' in encoded["tools"]["learned"]
    for case, column in (
        ("tools", "input_ids"),
        ("tools for kto", "prompt_ids"),
        ("tools for reward", "chosen_ids"),
    ):
        assert '"parameters"' in encoded[case][column], case
        assert encoded[case]["notes"] == []
    assert "refused" not in encoded["tools in a later row"]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (
            "wrong arguments",
            "the arguments of add in message 2 do not fit its schema: ['a']",
        ),
        ("unknown tool", "message 2 calls the tool 'sub', but the row's tools are add"),
        ("a template without tools", "the chat template leaves out a tool call of message 2"),
        ("misspelt template", "the chat template leaves out the content of message 1"),
    ],
)
def test_what_cannot_be_learned_is_refused_by_row(case: str, says: str, encoded: Any) -> None:
    assert encoded[case]["refused"].startswith(f"rows.jsonl, line 1: {says}")


def test_arguments_of_the_template_come_from_the_spec_or_the_row(encoded: Any) -> None:
    thought = "<think>\n\n</think>\n\n"
    assert encoded["quick"]["prompt_ids"].endswith(thought)
    assert encoded["quick"]["chosen_ids"] == "answer<|im_end|>\n"
    assert encoded["quick by row"] == encoded["quick"]
    assert encoded["not quick"]["chosen_ids"] == f"{thought}answer<|im_end|>\n"
    message = encoded["an argument that nothing reads"]["refused"]
    assert message.startswith("the chat template does not read 'enable_thinkin'")


@pytest.mark.parametrize("case", ["a template with no end", "generation without the end"])
def test_rows_that_teach_no_end_are_counted_with_the_remedy(case: str, encoded: Any) -> None:
    (note,) = (note for note in encoded[case]["notes"] if note.startswith(f"1 rows {ENDLESS}"))
    assert "{{ eos_token }}" in note


def test_a_prompt_that_is_not_asked_as_it_is_trained_is_reported(encoded: Any) -> None:
    notes = encoded["another prompt"]["notes"]
    assert any(
        "1 prompts are not asked as they are trained (asked with '<think>" in n for n in notes
    )
    assert "the chat template leaves out the reasoning (in 1 rows)" in notes


def test_no_sequence_starts_or_ends_twice(encoded: Any) -> None:
    assert encoded["a tokenizer that adds an end"]["input_ids"] == "<s>question answer</s>"
    pair = encoded["the same in preferences"]
    assert (pair["prompt_ids"], pair["chosen_ids"]) == ("<s>question", " answer</s>")
    text = encoded["a text with its own start"]["input_ids"]
    assert (text.count("<s>"), text.count("<|im_end|>")) == (1, 2)


def test_the_end_token_can_be_chosen_from_the_vocabulary(encoded: Any) -> None:
    assert encoded["an end token of the user's"]["learned"] == "b<|im_end|>"
    assert "has no token '<|no|>'" in encoded["an unknown end token"]["refused"]


def test_a_trained_model_stops_and_a_vision_checkpoint_trains_as_text(
    printed: Callable[..., Any],
) -> None:
    found = printed("stopping.py")
    said = "<|im_end|> ends the assistant's turn in the chat template"
    for case in ("another end", "an adapter", "an end of the model's"):
        assert found[case]["said"] == {"text": "I am one", "ended": True}, case
        assert len(found[case]["ends"]) == 2, case
        noted = any(note.startswith(said) for note in found[case]["notes"])
        assert noted == (case != "an end of the model's"), case
    vision = found["a vision checkpoint"]
    assert vision["kind"] == ["Gemma3ForCausalLM"]
    assert vision["parts"] == []
    assert any("its text part is trained and saved as" in note for note in vision["notes"])
