"""The loss of saved models over data, by plain transformers: none of our code is used here.

Run inside an image: ``python evaluate.py JOBS``, a JSON list of ``{model, adapter, data}``; prints
``[loss, tokens]`` of each, the mean cross entropy in nats over the completions' tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def load(model: str, adapter: bool) -> Any:
    import torch

    if adapter:
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def loss(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> tuple[float, int]:
    import torch

    total, count = 0.0, 0
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        tokens = torch.tensor([prompt + completion])
        with torch.no_grad():
            logits = model(tokens).logits[0, len(prompt) - 1 : -1]
        losses = torch.nn.functional.cross_entropy(
            logits.double(), torch.tensor(completion), reduction="sum"
        )
        total, count = total + float(losses), count + len(completion)
    return total / count, count


def main() -> None:
    from transformers import AutoTokenizer

    found = []
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        lines = Path(job["data"]).read_text(encoding="utf-8").splitlines()
        tokenizer = AutoTokenizer.from_pretrained(job["model"])
        model = load(job["model"], job["adapter"])
        found.append(loss(model, tokenizer, [json.loads(line) for line in lines]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
