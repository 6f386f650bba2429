"""What becomes of rows with tools, weights and special tokens, inside an image.

Prints a JSON object: by case, the texts that the trainer gets and the notes, or the refusal.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from templates import make_tokenizer, template_files  # type: ignore[import-not-found]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['KEY'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = {"role": "user", "content": "question"}
ANSWER = {"role": "assistant", "content": "answer"}
BAD = {"role": "assistant", "content": "badness"}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
TURNS = {"messages": [USER, {**BAD, "weight": 0}, {**USER, "content": "again"}, ANSWER]}
PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [BAD]}
LABELLED = [
    {"prompt": [USER], "completion": [ANSWER], "label": True},
    {"prompt": [USER], "completion": [BAD], "label": False},
]
QUICK = {"chat_template_args": {"enable_thinking": False}}
HEAD = "<s><|im_start|>user\nq<|im_end|>\n"


def call(arguments: Any, name: str = "add") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def encode(
    tokenizer: Any,
    algorithm: str,
    rows: list[dict[str, Any]],
    model: dict[str, Any] | None = None,
    **sections: Any,
) -> dict[str, Any]:
    """What a run makes of rows: texts of the first row by name, and notes; or why it refuses."""
    from aligntune.errors import AligntuneError
    from aligntune.record.run_dir import RunDir
    from aligntune.spec.run_spec import RunSpec
    from aligntune.worker.families import Setup, family
    from aligntune.worker.inputs.model import load_tokenizer
    from aligntune.worker.inputs.rows import load_rows

    folder = Path(tempfile.mkdtemp())
    tokenizer.save_pretrained(folder)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = RunSpec.model_validate(
        {
            "algorithm": algorithm,
            "model": {"name": str(folder), **(model or {})},
            "dataset": {"name": str(data)},
            **sections,
        }
    )
    try:
        loaded = load_tokenizer(spec, folder)
        there, _ = load_rows(spec, RunDir(folder / "run"), loaded)
        ends = (loaded.eos_token_id,)
        setup = Setup(spec, loaded, None, (), None, None, ends)  # type: ignore[arg-type]
        encoded = family(spec.row).encode(there.dataset, setup, train=True)
    except AligntuneError as error:
        return {"refused": str(error)}
    row = encoded.dataset[0]
    found = {
        name: loaded.decode(ids)
        for name, ids in row.items()
        if name.endswith("_ids") and isinstance(ids, list)
    }
    if "labels" in row:
        found["learned"] = loaded.decode([label for label in row["labels"] if label >= 0])
    return {**found, "notes": [*there.notes, *encoded.notes]}


def cases() -> dict[str, Any]:
    templates = {path.stem: path.read_text(encoding="utf-8") for path in template_files()}
    qwen = make_tokenizer(templates["qwen3"], "<|im_end|>")
    deepseek = make_tokenizer(templates["deepseek_r1_distill"], "<|eos|>")
    plain = make_tokenizer(CHATML.replace("KEY", "content"), "<|im_end|>")
    text = make_tokenizer("", "</s>", closes=True)
    text.chat_template = None
    llama = make_tokenizer(HEAD, "<|im_end|>", closes=True)
    llama.chat_template = None
    only = {"training": {"assistant_only_loss": True}}
    reasoned = "<think>\nreason\n</think>\n\nanswer"
    return {
        "weight 0": encode(qwen, "sft", [TURNS]),
        "weight 0, assistant only": encode(qwen, "sft", [TURNS], **only),
        "tools in a later row": encode(
            qwen,
            "sft",
            [{"messages": [USER, ANSWER]}, {"messages": [USER, call({"a": 1})], "tools": TOOLS}],
        ),
        "tools": encode(qwen, "sft", [{"messages": [USER, call('{"a": 1}')], "tools": TOOLS}]),
        "tools for kto": encode(qwen, "kto", [{**row, "tools": TOOLS} for row in LABELLED]),
        "tools for reward": encode(
            qwen, "reward", [{**PAIR, "chosen": [call({"a": 1})], "tools": TOOLS}]
        ),
        "wrong arguments": encode(
            qwen, "sft", [{"messages": [USER, call({"a": "one"})], "tools": TOOLS}]
        ),
        "unknown tool": encode(
            qwen, "sft", [{"messages": [USER, call({}, "sub")], "tools": TOOLS}]
        ),
        "a template without tools": encode(
            plain, "sft", [{"messages": [USER, call({"a": 1})], "tools": TOOLS}]
        ),
        "quick": encode(qwen, "dpo", [PAIR], QUICK),
        "quick by row": encode(
            qwen, "dpo", [PAIR | {"chat_template_kwargs": {"enable_thinking": False}}]
        ),
        "not quick": encode(qwen, "dpo", [PAIR]),
        "an argument that nothing reads": encode(
            qwen, "dpo", [PAIR], {"chat_template_args": {"enable_thinkin": False}}
        ),
        "misspelt template": encode(
            make_tokenizer(CHATML.replace("KEY", "contents"), "<|im_end|>"),
            "sft",
            [{"messages": [USER, ANSWER]}],
        ),
        "a template with no end": encode(
            make_tokenizer("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "</s>"),
            "sft",
            [{"messages": [USER, ANSWER]}],
        ),
        "generation without the end": encode(
            make_tokenizer(
                "{% for m in messages %}<|im_start|>{% if m['role'] == 'assistant' %}"
                "{% generation %}{{ m['content'] }}{% endgeneration %}"
                "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}",
                "<|im_end|>",
            ),
            "sft",
            [{"messages": [USER, ANSWER]}],
            **only,
        ),
        "another prompt": encode(
            deepseek,
            "sft",
            [{"prompt": [USER], "completion": [{**ANSWER, "content": reasoned}]}],
        ),
        "a tokenizer that adds an end": encode(
            text, "sft", [{"prompt": "question", "completion": " answer"}]
        ),
        "the same in preferences": encode(
            text, "dpo", [{"prompt": "<s>question", "chosen": " answer</s>", "rejected": " no"}]
        ),
        "a text with its own start": encode(llama, "sft", [{"text": HEAD + "answer<|im_end|>"}]),
        "an end token of the user's": encode(
            make_tokenizer(CHATML.replace("KEY", "content"), "<|endoftext|>"),
            "sft",
            [{"prompt": "a", "completion": "b"}],
            {"eos_token": "<|im_end|>"},
        ),
        "an unknown end token": encode(plain, "sft", [{"text": "a"}], {"eos_token": "<|no|>"}),
    }


QUICK_TRAINING = {"training": {"batch_size": 2}}


def main() -> None:
    with redirect_stdout(sys.stderr):
        import datasets

        datasets.disable_progress_bars()
        found = cases()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
