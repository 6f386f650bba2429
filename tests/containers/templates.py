"""Every chat template that TRL ships, with every shape of a message, inside an image.

Prints a JSON object: how many cases were tried, and what was wrong with each that failed.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

KEEP = re.compile("KEEP[a-z]+KEEP")
SPECIAL = re.compile(r"<\|[^<>|\s]+\|>|<[|/]?[a-zA-Z_]+[|]?>|<\uff5c[^<>\s]+\uff5c>|\[/?[A-Z]+\]")
"""What looks like a special token in a template."""

ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "gemma": "<end_of_turn>",
    "gemma4": "<turn|>",
    "gptoss": "<|return|>",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "nemotron": "<|im_end|>",
    "phi3": "<|end|>",
    "qwen": "<|im_end|>",
}
"""The token that ends a turn in a family of templates, as their model cards say."""


def keep(word: str) -> str:
    return f"KEEP{word}KEEP"


USER = {"role": "user", "content": keep("question")}
ANSWER = {"role": "assistant", "content": keep("answer")}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": keep("tool"),
            "description": keep("about"),
            "parameters": {
                "type": "object",
                "properties": {keep("key"): {"type": "string", "description": keep("detail")}},
                "required": [keep("key")],
            },
        },
    }
]
FUNCTION = {"name": keep("tool"), "arguments": {keep("key"): keep("value")}}
AS_TEXT = {**FUNCTION, "arguments": json.dumps(FUNCTION["arguments"])}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": keep("id"), "type": "function", "function": FUNCTION}],
}
RESULT = {"role": "tool", "content": keep("result"), "tool_call_id": keep("id")}

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [USER, ANSWER]},
    "two turns": {
        "messages": [
            {"role": "user", "content": keep("first")},
            {"role": "assistant", "content": keep("reply")},
            USER,
            ANSWER,
        ]
    },
    "system message": {"messages": [{"role": "system", "content": keep("system")}, USER, ANSWER]},
    "system column": {"system": keep("system"), "messages": [USER, ANSWER]},
    "developer": {"messages": [{"role": "developer", "content": keep("system")}, USER, ANSWER]},
    "unknown role": {"messages": [USER, {"role": "critic", "content": keep("critic")}, ANSWER]},
    "late system": {"messages": [USER, {"role": "system", "content": keep("system")}, ANSWER]},
    "two answers": {"messages": [USER, ANSWER, {"role": "assistant", "content": keep("more")}]},
    "reasoning": {"messages": [USER, {**ANSWER, "reasoning_content": keep("why")}]},
    "thinking": {"messages": [USER, {**ANSWER, "thinking": keep("why")}]},
    "reasoning of an earlier turn": {
        "messages": [
            {"role": "user", "content": keep("first")},
            {"role": "assistant", "content": keep("reply"), "reasoning": keep("why")},
            USER,
            ANSWER,
        ]
    },
    "reasoning in the content": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": f"<think>\n{keep('why')}\n</think>\n\n{keep('answer')}",
            },
        ]
    },
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": keep("part")}]}]},
    "name": {"messages": [{**USER, "name": keep("speaker")}, ANSWER]},
    "unknown key": {"messages": [{**USER, "mood": keep("mood")}, ANSWER]},
    "unknown column": {"messages": [USER, ANSWER], "origin": keep("origin")},
    "tools": {"messages": [USER, ANSWER], "tools": TOOLS},
    "tools as text": {"messages": [USER, ANSWER], "tools": json.dumps(TOOLS)},
    "tool call": {"messages": [USER, CALL, RESULT, ANSWER], "tools": TOOLS},
    "tool call as text": {
        "messages": [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [{"function": AS_TEXT}]},
            {"role": "tool", "content": keep("result"), "name": keep("tool")},
            ANSWER,
        ]
    },
    "tool call beside content": {
        "messages": [USER, {**CALL, "content": keep("saying")}, RESULT, ANSWER]
    },
    "two tool calls": {
        "messages": [USER, {**CALL, "tool_calls": CALL["tool_calls"] * 2}, RESULT, RESULT, ANSWER]
    },
    "last message calls": {"messages": [USER, CALL], "tools": TOOLS},
    "function call": {
        "messages": [
            USER,
            {"role": "assistant", "content": "", "function_call": AS_TEXT},
            {"role": "function", "name": keep("tool"), "content": keep("result")},
            ANSWER,
        ]
    },
    "ShareGPT": {
        "system": keep("system"),
        "tools": json.dumps([TOOLS[0]["function"]]),
        "conversations": [
            {"from": "human", "value": keep("question")},
            {"from": "function_call", "value": json.dumps(FUNCTION)},
            {"from": "observation", "value": keep("result")},
            {"from": "gpt", "value": keep("answer")},
        ],
    },
    "Alpaca": {
        "system": keep("system"),
        "instruction": keep("question"),
        "input": keep("input"),
        "output": keep("answer"),
        "history": [[keep("first"), keep("reply")]],
    },
    "Dolly": {
        "instruction": keep("question"),
        "context": keep("input"),
        "response": keep("answer"),
        "category": keep("category"),
    },
    "template argument": {
        "messages": [USER, ANSWER],
        "chat_template_kwargs": {"nobody_reads": keep("argument")},
    },
}


def make_tokenizer(template: str, end: str, closes: bool = False) -> Any:
    """A byte-level tokenizer that knows what looks like a special token in a template.

    Args:
        template: the chat template.
        end: the end-of-sequence token.
        closes: whether the tokenizer adds start and end tokens to a text itself.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bytewise = Tokenizer(models.BPE())
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(["<s>", "<pad>", end, *SPECIAL.findall(template)]))
    bytewise.train_from_iterator(
        [],
        trainers.BpeTrainer(
            vocab_size=256 + len(special),
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if closes:
        bytewise.post_processor = processors.TemplateProcessing(
            single=f"<s> $A {end}", special_tokens=[("<s>", 0), (end, special.index(end))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise, bos_token="<s>", eos_token=end, pad_token="<pad>"
    )
    tokenizer.chat_template = template
    return tokenizer


def canonical(row: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A row in canonical form, and the notes about it."""
    from aligntune.data.formats import FORMATS
    from aligntune.data.messages import Ignored

    ignored = Ignored()
    name = next(name for name in ("instruction", "chat") if FORMATS[name].fits(row))
    read = FORMATS[name].read(row, True, ignored)
    return read, " ".join(name for _, name in ignored)


def lost(tokenizer: Any, row: dict[str, Any]) -> str:
    """What of a row is neither in the tokens nor in a note, though the row is not refused."""
    from aligntune.errors import AligntuneError
    from aligntune.worker.text.checking import RenderedRows
    from aligntune.worker.text.encoding import Encoder
    from aligntune.worker.text.rendering import Renderer, conversation

    renderer = Renderer(tokenizer)
    read, ignored = canonical(row)
    check = RenderedRows(lambda _: renderer)
    try:
        check("row 1", read)
    except AligntuneError as error:
        return "" if str(error).startswith("row 1: ") else f"no row in {error}"
    columns = ("messages",) if "messages" in read else ("prompt", "completion")
    text = tokenizer.decode(Encoder(renderer).chat(conversation(read, *columns)))
    missing = set(KEEP.findall(json.dumps(row))) - set(KEEP.findall(text))
    said = " ".join((ignored, *check.notes()))
    kinds = {
        "why": "reasoning",
        "speaker": "the name",
        "tool": "the name",
        "id": "ids of tool calls",
        "detail": "descriptions of tools",
        "mood": "mood",
        "origin": "origin",
        "category": "category",
        "argument": "nobody_reads",
    }
    return ", ".join(
        word
        for word in sorted(word[4:-4] for word in missing)
        if word not in kinds or kinds[word] not in said
    )


def stops(name: str, template: str, kind: str) -> str:
    """What is wrong with how an answer ends; ``kind`` says which token ends a sequence."""
    from transformers import GenerationConfig

    from aligntune.worker.text.encoding import Encoder
    from aligntune.worker.text.rendering import Conversation, Renderer
    from aligntune.worker.text.stops import WITHOUT_END, settle_ends

    family = max((key for key in ENDS if name.startswith(key)), key=len, default="")
    turn = ENDS.get(family, "<|endoftext|>")
    end = turn if kind == "the end of a turn" else "<|endoftext|>"
    tokenizer = make_tokenizer(template, end, closes=kind == "added by the tokenizer")
    settings = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model = SimpleNamespace(generation_config=settings)
    encoder = Encoder(Renderer(tokenizer))
    ends, notes = settle_ends(model, encoder.renderer, chat=True)
    tokens = encoder.chat(
        Conversation([{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}])
    )
    names = tokenizer.convert_ids_to_tokens(ends)
    if family and turn not in names:
        return f"{turn} does not end generation, but {names} do"
    saved = settings.eos_token_id
    if sorted(saved if isinstance(saved, list) else [saved]) != sorted(ends):
        return f"{saved} is saved, but {ends} end generation"
    tail = tokens[-4:]
    if not set(tail) & set(ends) and WITHOUT_END not in notes:
        return f"no end in {tokenizer.convert_ids_to_tokens(tail)}, and no warning"
    for text in ("a b", f"<s>a{end}"):
        ended = encoder.text(text, ends=True)
        if ended.count(tokenizer.eos_token_id) != 1 or ended.count(0) > 1:
            return f"{text!r} becomes {tokenizer.convert_ids_to_tokens(ended)}"
    if encoder.text("a b")[-1] == tokenizer.eos_token_id:
        return "a prompt ends in the end of a sequence"
    return ""


def template_files() -> list[Path]:
    """The chat templates that TRL ships."""
    (package,) = importlib.util.find_spec("trl").submodule_search_locations  # type: ignore
    return sorted(Path(package, "chat_templates").glob("*.jinja"))


def cases() -> Iterator[tuple[str, str]]:
    for path in template_files():
        template = path.read_text(encoding="utf-8")
        tokenizer = make_tokenizer(template, "<|endoftext|>")
        for shape, row in SHAPES.items():
            yield f"{path.stem}, {shape}", lost(tokenizer, row)
        for kind in ("the end of a turn", "another token", "added by the tokenizer"):
            yield f"{path.stem}, eos is {kind}", stops(path.stem, template, kind)


def main() -> None:
    with redirect_stdout(sys.stderr):
        found = dict(cases())
    failed = {name: problem for name, problem in found.items() if problem}
    print(json.dumps({"cases": len(found), "failed": failed}))


if __name__ == "__main__":
    main()
