"""The figures of saved toys, by plain transformers and PEFT on the CPU: none of our code is used.

``python reload.py JOBS``: a JSON list of ``{name, family, model, base, adapter, four_bit, rows}``.
Prints one JSON object per job: its name and ``figure``, or ``error``. The figure is that of
tests/helpers/toys.py: loss, accuracy, margin, or mean reward of sampled completions.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

GOOD = "abcdefg"
BETA = 0.1
"""The spec's default for KTO's implicit reward."""


def load(job: dict[str, Any]) -> Any:
    """The saved model in float32, on its base where it is an adapter."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        BitsAndBytesConfig,
    )

    classifier = job["family"] == "reward_model"
    kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    labels = {"num_labels": 1} if classifier else {}
    if not job["adapter"]:
        return kind.from_pretrained(job["model"], dtype=torch.float32, **labels).eval()
    from peft import PeftModel

    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    quantized = {"quantization_config": four} if job["four_bit"] else {}
    base = kind.from_pretrained(job["base"], dtype=torch.float32, **quantized, **labels)
    model = PeftModel.from_pretrained(base, job["model"]).eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.training = True  # else bitsandbytes repacks it for a CPU, and fails on tiny ones
    return model


def log_prob(model: Any, tokenizer: Any, prompt: str, completion: str) -> tuple[float, int]:
    """Sum of log-probabilities of a completion with its end token, and how many tokens."""
    import torch

    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    found = logits.double().log_softmax(-1).gather(-1, torch.tensor(after)[:, None])
    return float(found.sum()), len(after)


def supervised(model: Any, tokenizer: Any, rows: list[dict[str, Any]], job: Any) -> float:
    found = [log_prob(model, tokenizer, row["prompt"], row["completion"]) for row in rows]
    return -sum(total for total, _ in found) / sum(count for _, count in found)


def gains(model: Any, tokenizer: Any, pairs: list[tuple[str, str]], job: Any) -> list[float]:
    """Log-ratio of each (prompt, answer) to the model that training began with."""
    from transformers import AutoModelForCausalLM

    if job["adapter"]:
        with model.disable_adapter():
            before = [log_prob(model, tokenizer, *pair)[0] for pair in pairs]
    else:
        base = AutoModelForCausalLM.from_pretrained(job["base"]).float().eval()
        before = [log_prob(base, tokenizer, *pair)[0] for pair in pairs]
    now = [log_prob(model, tokenizer, *pair)[0] for pair in pairs]
    return [after - then for after, then in zip(now, before, strict=True)]


def preference(model: Any, tokenizer: Any, rows: list[dict[str, Any]], job: Any) -> float:
    chosen, rejected = (
        gains(model, tokenizer, [(row["prompt"], row[key]) for row in rows], job)
        for key in ("chosen", "rejected")
    )
    return sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(rows)


def feedback(model: Any, tokenizer: Any, rows: list[dict[str, Any]], job: Any) -> float:
    found = gains(model, tokenizer, [(row["prompt"], row["completion"]) for row in rows], job)
    sides: dict[bool, list[float]] = {True: [], False: []}
    for gain, row in zip(found, rows, strict=True):
        sides[row["label"]].append(BETA * gain)
    return sum(sides[True]) / len(sides[True]) - sum(sides[False]) / len(sides[False])


def reward_model(model: Any, tokenizer: Any, rows: list[dict[str, Any]], job: Any) -> float:
    import torch

    def score(text: str) -> float:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            return float(model(torch.tensor([ids])).logits[0, 0])

    wins = [score(r["prompt"] + r["chosen"]) > score(r["prompt"] + r["rejected"]) for r in rows]
    return sum(wins) / len(rows)


def online(model: Any, tokenizer: Any, rows: list[dict[str, Any]], job: Any) -> float:
    import torch

    torch.manual_seed(0)
    rewards = []
    for row in rows:
        ids = torch.tensor([tokenizer(row["prompt"])["input_ids"]])
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            pad_token_id=tokenizer.pad_token_id,
        )
        letters = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).split()
        rewards.append(sum(letter in GOOD for letter in letters) / max(len(letters), 1))
    return sum(rewards) / len(rewards)


FIGURES = {
    "supervised": supervised,
    "preference": preference,
    "feedback": feedback,
    "reward_model": reward_model,
    "online": online,
}


def main() -> None:
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        found: dict[str, Any] = {"name": job["name"]}
        try:
            lines = Path(job["rows"]).read_text(encoding="utf-8").splitlines()
            tokenizer = AutoTokenizer.from_pretrained(job["model"])
            model = load(job)
            model.config.pad_token_id = tokenizer.pad_token_id
            figure = FIGURES[job["family"]](model, tokenizer, list(map(json.loads, lines)), job)
            found["figure"] = figure if math.isfinite(figure) else None
        except Exception as error:  # each is a row of the kit's table
            found["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
