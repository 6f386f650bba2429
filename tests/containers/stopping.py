"""Models that learn to end their turns, and a vision checkpoint, trained inside an image.

``python stopping.py`` prints a JSON object: by case, what the run noted, the end tokens that it
saved, the class and the parts of the saved model, and how a prediction ends.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from templates import make_tokenizer  # type: ignore[import-not-found]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LORA = {"type": "lora", "rank": 8}
ROWS = [
    {
        "messages": [
            {"role": "user", "content": "who are you"},
            {"role": "assistant", "content": "I am one"},
        ]
    }
] * 8
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def make_model(folder: Path, vision: bool, ends: list[str]) -> None:
    """A tiny model whose tokenizer ends a text with another token than its chats' turns."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    tokenizer = make_tokenizer(CHATML, "<|endoftext|>")
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {**SIZES, **special, "bos_token_id": None, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    if vision:
        config = AutoConfig.for_model(
            "gemma3", text_config=sizes, vision_config=VISION, mm_tokens_per_image=4
        )
        model = AutoModelForImageTextToText.from_config(config)
    else:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes))
    if ends:
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_and_ask(
    steps: int, rate: float, vision: bool = False, ends: tuple[str, ...] = (), **sections: Any
) -> dict[str, Any]:
    """Train on a conversation that ends, and ask for its answer."""
    from aligntune.record.events import EventWriter
    from aligntune.record.run_dir import RunDir
    from aligntune.spec.run_spec import RunSpec
    from aligntune.tasks import Predict
    from aligntune.worker.tasks.do import do
    from aligntune.worker.train import train

    folder = Path(tempfile.mkdtemp())
    make_model(folder / "base", vision, [*ends])
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    settings = {"max_steps": steps, "batch_size": 4, "learning_rate": rate, "precision": "fp32"}
    spec = RunSpec.model_validate(
        {
            "algorithm": "sft",
            "model": {"name": str(folder / "base")},
            "dataset": {"name": str(data)},
            "training": settings,
            **sections,
        }
    )
    run, asked = RunDir(folder / "run"), RunDir(folder / "asked")
    for made in (run, asked):
        made.path.mkdir()
    train(spec, run, EventWriter(run.path / "events.jsonl"))
    task = Predict(of=str(run.path), prompts=("who are you",), max_new_tokens=30, chat=True)
    do(spec, asked, EventWriter(asked.path / "events.jsonl"), task)
    lines = (run.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    file = run.model / "config.json"
    config = json.loads(file.read_text()) if file.exists() else {}  # an adapter has none
    result: Any = asked.record().result
    return {
        "notes": [event["message"] for event in events if event["event"] == "note"],
        "ends": json.loads((run.model / "generation_config.json").read_text())["eos_token_id"],
        "kind": config.get("architectures"),
        "parts": [key for key in config if key.endswith("_config")],
        "said": {key: result["predictions"][0][key] for key in ("text", "ended")},
    }


def main() -> None:
    with redirect_stdout(sys.stderr):
        found = {
            "another end": train_and_ask(40, 2e-2),
            "an adapter": train_and_ask(80, 3e-2, adapter=LORA),
            "an end of the model's": train_and_ask(40, 2e-2, ends=("<|endoftext|>", "<|im_end|>")),
            "a vision checkpoint": train_and_ask(2, 1e-3, vision=True),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
