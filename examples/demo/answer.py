"""Ask a model, and show the data's answer next to its own, and whether it was trained on that.

Run ``python answer.py MODEL DATA_FOLDER QUESTION...`` in an environment with transformers. Decoding
is greedy, so a model always gives the same answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

MOST_TOKENS = 30
PARTS = {"train": "trained on", "eval": "held out"}


def main() -> None:
    model_folder, data, *questions = sys.argv[1:]
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    for question in questions:
        inputs = tokenizer(question, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        answer = output[0, inputs["input_ids"].shape[1] :]
        print(f"{question}\n  model:      {tokenizer.decode(answer, skip_special_tokens=True)!r}")
        for part, meaning in PARTS.items():
            for line in (Path(data) / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["prompt"] == question:
                    print(f"  {meaning + ':':11} {row['completion']!r}")


if __name__ == "__main__":
    main()
