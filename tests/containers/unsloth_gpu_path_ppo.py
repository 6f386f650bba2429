"""PPO over a policy of Unsloth's, patched as for a GPU, on a machine without one.

The models' forward passes, the modes of inference and training, and the patched Trainer are the
ones of a GPU; the kernels are not: see unsloth_gpu_path.py.

Run inside the unsloth image: ``python unsloth_gpu_path_ppo.py FOLDER``; prints a JSON object a
policy, all weights trained and an adapter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def main(output: str) -> None:
    """Train a tiny model that is sure enough of what it says for an adapter to change it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.containers.unsloth_gpu_path import take_gpu_path
    from tests.helpers.tiny import make_model, make_tokenizer

    take_gpu_path()
    import torch
    from transformers import AutoTokenizer, Trainer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from unsloth import FastModel

    from aligntune.worker.ppo.trainer import PPOConfig, PPOTrainer

    @contextmanager
    def generating(model: Any) -> Iterator[None]:
        FastModel.for_inference(model)
        try:
            yield
        finally:
            FastModel.for_training(model, use_gradient_checkpointing=False)

    class Logs(TrainerCallback):  # type: ignore[misc]
        told: list[dict[str, float]]

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.told.append(dict(logs))

    folder = f"{output}/llama"
    made = make_tokenizer(["the cat sat on the mat"])
    make_model(Path(folder), "llama", made, initializer_range=0.1)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def early(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        """The share of tokens from the first quarter of the vocabulary."""
        limit = len(tokenizer) // 4
        return [sum(token < limit for token in tokens) / len(tokens) for tokens in completion_ids]

    for adapter in (False, True):
        model, _ = FastModel.from_pretrained(
            folder,
            max_seq_length=64,
            dtype=torch.float32,
            load_in_4bit=False,
            full_finetuning=not adapter,
            device_map={"": "cpu"},
            use_gradient_checkpointing=False,
            local_files_only=True,
        )
        if adapter:
            model = FastModel.get_peft_model(
                model,
                r=8,
                lora_alpha=16,
                lora_dropout=0.0,
                target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
                use_gradient_checkpointing=False,
            )
        logs = Logs()
        logs.told = []
        trainer = PPOTrainer(
            model,
            PPOConfig(
                output_dir=f"{output}/{adapter}",
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
                logging_steps=1,
                learning_rate=2e-2 if adapter else 5e-3,
                kl_coef=0.001,
                per_device_train_batch_size=16,
                gradient_accumulation_steps=2,
                max_completion_length=8,
                max_steps=80,
                missing_eos_penalty=0.1,
            ),
            early,
            [{"prompt": "the cat sat " * (1 + row % 4)} for row in range(32)],
            [{"prompt": "the cat sat"}] * 4,
            processing_class=tokenizer,
            callbacks=[logs],
            generating=generating,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found = trainer.evaluate()
        trainer.save_model(f"{output}/{adapter}/model")
        rewards = [told["reward"] for told in logs.told if "reward" in told]
        print(
            json.dumps(
                {
                    "adapter": adapter,
                    "patched": "unsloth" in Trainer.training_step.__name__,
                    "first_ratio": logs.told[0]["ratio"],
                    "rewards": [rewards[0], rewards[-1]],
                    "eval_kl": found["eval_kl"],
                    "policy": type(model).__name__,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
