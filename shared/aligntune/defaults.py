"""The defaults that decide what a model learns, with their sources, as a Markdown table.

``python -m aligntune.defaults`` prints the table of docs/defaults.md. The values are those of
the sections and of the algorithms' rows; only the sources are written here.
"""

from __future__ import annotations

from typing import Any

from aligntune.algorithms import ALGORITHMS
from aligntune.spec.run_spec import RunSpec

TULU = "[Tülu 3](https://github.com/allenai/open-instruct/blob/main/docs/tulu3.md)"
HANDBOOK = (
    "[alignment-handbook](https://github.com/huggingface/alignment-handbook/blob/main/recipes/"
    "zephyr-7b-beta/dpo/config_full.yaml)"
)
ALPACA = "[Alpaca](https://github.com/tatsu-lab/stanford_alpaca#fine-tuning)"
KTO = "[TRL](https://huggingface.co/docs/trl/v0.16.1/kto_trainer#batch-size-recommendations)"
LORA_GUIDE = (
    "[Unsloth](https://docs.unsloth.ai/get-started/beginner-start-here/lora-hyperparameters-guide)"
)

SOURCES = {
    "training.learning_rate": "TRL's own defaults, except for reward models (TRL 1e-4, "
    f"{TULU} 3e-6) and PPO, which TRL no longer has; ten times higher for an adapter "
    "([LoRA Without Regret](https://thinkingmachines.ai/blog/lora))",
    "training.schedule": f"cosine: {HANDBOOK}; linear: TRL",
    "training.warmup": f"3 % of the steps: {TULU} (SFT)",
    "training.epochs": f"3 for SFT: {ALPACA}; 1 for preferences and reward models: {TULU}, "
    f"{HANDBOOK}",
    "training.batch_size": "TRL",
    "training.gradient_accumulation": "null accumulates 16 sequences or more per step, but no more "
    f"whole batches than the data has: {KTO} recommends 16 to 128",
    "training.assistant_only_loss": "null learns only the assistant's turns of a chat if its "
    "template marks them, or [TRL has one that does]"
    "(https://huggingface.co/docs/trl/chat_templates#training-templates)",
    "training.completion_only_loss": "null learns only completions: TRL",
    "adapter.rank": "TRL",
    "adapter.alpha": f"null is twice the rank: {LORA_GUIDE} recommends one or two times, and TRL "
    "has 32 for its rank 16; 32 with rslora",
    "adapter.targets": "[QLoRA](https://arxiv.org/abs/2305.14314), [LoRA Without Regret]"
    "(https://thinkingmachines.ai/blog/lora)",
    "preference.beta": "[DPO](https://arxiv.org/abs/2305.18290), "
    "[KTO](https://arxiv.org/abs/2402.01306)",
}
"""Dotted key -> where its defaults come from."""


def table() -> str:
    """The defaults and their sources, as a Markdown table."""
    lines = ["| key | default | source |", "| --- | --- | --- |"]
    for key, source in SOURCES.items():
        lines.append(f"| `{key}` | {_values(key)} | {source} |")
    return "\n".join(lines)


def _values(key: str) -> str:
    """A key's default for each algorithm that has it: ``3 (sft); 1 (dpo, kto)``."""
    section, _, name = key.partition(".")
    annotation: Any = RunSpec.model_fields[section].annotation
    common = annotation.model_fields[name].default
    found: dict[str, list[str]] = {}
    for row in ALGORITHMS.values():
        if section != "preference" or section in row.sections:
            found.setdefault(_shown(row.defaults.get(key, common)), []).append(row.name)
    if len(found) == 1:
        return f"`{next(iter(found))}`"
    return "; ".join(f"`{value}` ({', '.join(names)})" for value, names in found.items())


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(table())
