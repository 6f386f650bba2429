"""The loss head of an evaluation against plain logits, inside an image: ``python loss_head.py``.

Prints a JSON object per model type and precision: the largest difference between log-probabilities,
and how often the model's own output matrix was called on more than a tile.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from typing import Any

SCALES = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 1.0, "query_pre_attn_scalar": 16},
    "cohere": {"logit_scale": 3.0},
    "granite": {"logits_scaling": 0.5},
}
"""What some models do to logits beside the projection."""


def compare(kind: str, precision: str, temperature: float) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from aligntune.worker.device import Device
    from aligntune.worker.metrics import token_loss
    from aligntune.worker.modeling.loss_head import LossHead
    from aligntune.worker.modeling.reference import completion_logprobs

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, pad_token_id=0,
        eos_token_id=1, bos_token_id=None, initializer_range=0.3, **SCALES[kind],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    head = LossHead(Device(cuda=False, precision=precision), own=False)
    prompts = [[5, 6, 7], [8], [9, 10]]
    completions = [[11, 12], [13, 14, 15, 16], [17]]

    expected = []
    model.eval()
    for prompt, completion in zip(prompts, completions, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        logps = (logits.double() / temperature).log_softmax(-1)
        expected.append(float(logps.gather(1, torch.tensor(completion)[:, None]).sum()))

    head.fuses(model)  # compares a few tokens with the model's own logits, once
    calls: list[Any] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    forward = model.forward
    found = completion_logprobs(model, prompts, completions, 2, 0, head, temperature)
    ids = torch.tensor([[5, 6, 7, 11, 12]])
    labels = torch.tensor([[-100, -100, -100, 11, 12]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    metrics = token_loss(model, [batch], head)
    summed = float(metrics["loss"] or 0) * int(metrics["tokens"] or 0)
    handle.remove()
    return {
        "difference": max(abs(a - b) for a, b in zip(found, expected, strict=True)),
        "loss": abs(summed + expected[0]) if temperature == 1 else 0.0,
        "calls": len(calls),
        "restored": model.forward == forward,
    }


def main() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # trl 1.15 outside Unsloth needs it on a CPU
    with redirect_stdout(sys.stderr):
        found = {
            f"{kind} {precision} {temperature}": compare(kind, precision, temperature)
            for kind in SCALES
            for precision, temperature in (("fp32", 1.0), ("fp32", 0.7), ("bf16", 1.0))
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
