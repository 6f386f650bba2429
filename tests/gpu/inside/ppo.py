"""Train a tiny policy by PPO on a GPU: ``python ppo.py full|lora|4bit head|model FOLDER``.

Through Unsloth where it is installed, in its own process, as it patches what it imports; else
through transformers. Prints one JSON object.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNSLOTH = importlib.util.find_spec("unsloth") is not None
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]


def by_unsloth(folder: str, kind: str) -> Any:
    import torch
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        folder,
        max_seq_length=64,
        dtype=torch.bfloat16,
        load_in_4bit=kind == "4bit",
        full_finetuning=kind == "full",
        use_gradient_checkpointing=False,
        local_files_only=True,
    )
    if kind == "full":
        return model
    return FastLanguageModel.get_peft_model(
        model, r=8, lora_alpha=16, target_modules=TARGETS, use_gradient_checkpointing=False
    )


def by_transformers(folder: str, kind: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map={"": 0},
        **({"quantization_config": four} if kind == "4bit" else {}),
    )
    if kind == "full":
        return model
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))


@contextmanager
def by_modes_of_unsloth(model: Any) -> Iterator[None]:
    from unsloth import FastLanguageModel

    FastLanguageModel.for_inference(model)
    try:
        yield
    finally:
        FastLanguageModel.for_training(model, use_gradient_checkpointing=False)


def main(kind: str, critic: str, output: str) -> None:
    """Train, and compare log-probabilities with and without padding."""
    if UNSLOTH:
        import unsloth  # noqa: F401  - before everything it patches
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    import torch
    from tests.helpers.ppo_toy import Logs
    from tests.helpers.tiny import make_model, make_tokenizer
    from transformers import AutoTokenizer

    from aligntune.worker.modeling.score import Sequences, score
    from aligntune.worker.ppo.trainer import PPOConfig, PPOTrainer

    folder = f"{output}/llama"
    made = make_tokenizer(["the cat sat on the mat"])
    make_model(Path(folder), "llama", made, initializer_range=0.1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limit = len(tokenizer) // 4

    def early(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [sum(token < limit for token in tokens) / len(tokens) for tokens in completion_ids]

    load = by_unsloth if UNSLOTH else by_transformers
    logs = Logs()
    trainer = PPOTrainer(
        load(folder, kind),
        PPOConfig(
            output_dir=f"{output}/checkpoints",
            bf16=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            learning_rate=5e-3 if kind == "full" else 2e-2,
            kl_coef=0.001,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            max_completion_length=8,
            max_steps=120,
            critic=critic,
        ),
        early,
        [{"prompt": "the cat sat " * (1 + row % 4)} for row in range(32)],
        processing_class=tokenizer,
        value_model=load(folder, kind) if critic == "model" else None,
        callbacks=[logs],
        generating=by_modes_of_unsloth if UNSLOTH else None,
    )
    trainer.train()
    prompts, completions = [[5], [6, 7, 8, 9], [10, 11]], [[12, 13, 14], [15], [16, 17]]
    with torch.no_grad():
        together = score(
            trainer.model, Sequences.of(prompts, completions, tokenizer.pad_token_id, "cuda"), 1.0
        ).log_probs
        alone = [
            score(trainer.model, Sequences.of([prompt], [said], 0, "cuda"), 1.0).log_probs[0]
            for prompt, said in zip(prompts, completions, strict=True)
        ]
    apart = [
        float((together[row, : len(each)] - each).abs().max()) for row, each in enumerate(alone)
    ]
    rewards = logs.of("reward")
    print(
        json.dumps(
            {
                "backend": "unsloth" if UNSLOTH else "transformers",
                "first_ratio": logs.entries[0]["ratio"],
                "first_approx_kl": logs.entries[0]["approx_kl"],
                "padding_error": max(apart),
                "rewards": [rewards[0], rewards[-1]],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
