"""Stock TRL, started by hand with every argument written out: what our runs are held against.

None of our code is used here, and no table: the settings are those of the papers. Run inside the
TRL image: ``python stock_trl.py JOBS``, a list of ``{algorithm, model, data, reward, theirs}`` in
JSON; prints the losses and gradient norms of each algorithm, how far the weights are from those in
``theirs`` (a model that our worker saved), and how far those of any two algorithms are apart.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

COMMON = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "max_steps": 12,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "linear",
    "optim": "adamw_torch_fused",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 42,
    "data_seed": 42,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}
OFF_POLICY = {
    "num_generations": 4,
    "max_completion_length": 12,
    "num_iterations": 2,
    "beta": 0.05,
    "temperature": 1.0,
    "epsilon": 0.2,
}
PAPERS: dict[str, dict[str, Any]] = {
    # https://arxiv.org/abs/2402.03300: a mean over each completion, advantages in deviations.
    "grpo": {
        "loss_type": "grpo",
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "mask_truncated_completions": False,
    },
    # https://arxiv.org/abs/2503.14476: a mean over tokens, clip-higher, cut ones left out.
    "dapo": {
        "loss_type": "dapo",
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "mask_truncated_completions": True,
        "epsilon_high": 0.28,
    },
    # https://arxiv.org/abs/2503.20783: no division by length, nor by the deviation.
    "dr_grpo": {
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "importance_sampling_level": "token",
        "mask_truncated_completions": False,
    },
    # https://arxiv.org/abs/2507.18071: the ratio of a whole sequence.
    "gspo": {
        "loss_type": "grpo",
        "scale_rewards": "group",
        "importance_sampling_level": "sequence",
        "mask_truncated_completions": False,
    },
}


def trainer_of(job: dict[str, Any], folder: str) -> Any:
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = job["algorithm"]
    lines = Path(job["data"]).read_text(encoding="utf-8").splitlines()
    given: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32"),
        "processing_class": AutoTokenizer.from_pretrained(job["model"]),
        "train_dataset": Dataset.from_list([json.loads(line) for line in lines]),
    }
    if name == "sft":
        args = trl.SFTConfig(folder, **COMMON, max_length=64, completion_only_loss=True)
        return trl.SFTTrainer(args=args, **given)
    if name == "dpo":
        args = trl.DPOConfig(folder, **COMMON, max_length=64, beta=0.1, loss_type=["sigmoid"])
        return trl.DPOTrainer(args=args, **given)
    reward = runpy.run_path(job["reward"])["good"]

    def good(completions: list[str], **_: Any) -> list[float]:
        return list(reward(completions))

    args = trl.GRPOConfig(folder, **COMMON, **OFF_POLICY, **PAPERS[name])
    return trl.GRPOTrainer(args=args, reward_funcs=[good], **given)


def weights_in(folder: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(Path(folder) / "model.safetensors"))


def apart(one: dict[str, Any], two: dict[str, Any]) -> float:
    """The largest difference between any two weights."""
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def main() -> None:
    found, ends = {}, {}
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        name = job["algorithm"]
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(job, folder)
            trainer.train()
            trainer.save_model(folder)
            ends[name] = weights_in(folder)
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        found[name] = {
            "losses": [entry["loss"] for entry in steps],
            "grad_norms": [entry["grad_norm"] for entry in steps],
            "cut": [entry.get("completions/clipped_ratio", 0.0) for entry in steps],
            "apart": apart(ends[name], weights_in(job["theirs"])),
            "moved": apart(ends[name], weights_in(job["model"])),
        }
    pairs = {f"{one} {two}": apart(ends[one], ends[two]) for one, two in combinations(ends, 2)}
    print(json.dumps({"algorithms": found, "pairs": pairs}))


if __name__ == "__main__":
    main()
