"""Our PPO against TRL's last one, side by side.

    python benchmarks/ppo.py [--seeds 5] [--rate 1e-3] [--threads 2]

A tiny Llama learns to say one word: the reward is that word's share of a completion. Both sides
get the same model, prompts, number of episodes and settings, and run in turn, seed by seed, in the
same environment, which is made below the user's cache folder: TRL 1.12.0 is the last version with a
PPO (`trl.experimental.ppo`), and ours needs only its torch, transformers and accelerate. What is
judged is the policy that each leaves behind, by the same sampling; time is that of `train()`.

Padding is forbidden to be sampled on both sides, by a hook on the model's head: TRL takes a sampled
padding token for the end of a completion. Gradients are clipped on neither, as TRL's PPO never
does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PINS = (
    "torch==2.13.0",
    "trl==1.12.0",
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "tokenizers==0.23.3",
    "numpy==2.4.6",
    "pandas==3.1.1",
)
SIDES = ("ours", "trl", "ours, value head")
WORDS, PAD, END, CHOSEN = 32, 0, 1, 7
PROMPT, COMPLETION, ROWS, BATCH, EPISODES = 4, 16, 256, 64, 6400


def main() -> None:
    """Print a line a seed, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of both")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run(given.side, given.seed, given.rate)))
        return
    python = environment()
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    print(f"{'seed':>4}  " + "  ".join(f"{side:>24}" for side in SIDES), flush=True)
    for seed in range(given.seeds):
        for side in SIDES:
            results[side].append(measure(python, side, seed, given.rate, given.threads))
        cells = (
            f"{told[-1]['reward']:.4f} in {told[-1]['seconds']:6.1f} s" for told in results.values()
        )
        print(f"{seed:4}  " + "  ".join(f"{cell:>24}" for cell in cells), flush=True)
    for side in SIDES:
        show(side, results[side], results["trl"])


def environment() -> Path:
    """The Python of an environment with TRL 1.12.0, made if it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "aligntune-benchmarks" / "trl-1.12.0"
    python = folder / "bin" / "python"
    made = folder / "pins.json"
    if not made.exists() or json.loads(made.read_text()) != list(PINS):
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True)
        made.write_text(json.dumps(PINS))
    return python


def measure(python: Path, side: str, seed: int, rate: float, threads: int) -> dict[str, float]:
    """One training in a process of its own."""
    words = [str(Path(__file__)), "--side", side, "--seed", str(seed), "--rate", str(rate)]
    variables = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY / "shared"),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run([python, *words], env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side}, seed {seed}:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show(side: str, told: list[dict[str, float]], base: list[dict[str, float]]) -> None:
    """One line: rewards, times, and both against TRL's."""
    rewards, seconds = ([each[name] for each in told] for name in ("reward", "seconds"))
    pairs = list(zip(told, base, strict=True))
    times = [ours["seconds"] / theirs["seconds"] for ours, theirs in pairs]
    no_less = sum(ours["reward"] >= theirs["reward"] for ours, theirs in pairs)
    print(
        f"{side:>18}: reward {statistics.mean(rewards):.4f} (lowest {min(rewards):.4f}), "
        f"{statistics.median(seconds):.1f} s; against trl: at least its reward on "
        f"{no_less} of {len(told)} seeds, time x{statistics.median(times):.2f} "
        f"({min(times):.2f} to {max(times):.2f})",
        flush=True,
    )


def run(side: str, seed: int, rate: float) -> dict[str, float]:
    """Train on one side, and judge the policy it leaves behind."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as name:
        policy = make_policy(seed)
        common: dict[str, Any] = {
            "output_dir": name,
            "seed": seed,
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "learning_rate": rate,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": 0.0,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "num_mini_batches": 1,
            "num_ppo_epochs": 4,
            "temperature": 1.0,
            "kl_coef": float(os.environ.get("KL", "0.05")),
            "cliprange": 0.2,
            "cliprange_value": 0.2,
            "vf_coef": 0.1,
            "gamma": 1.0,
            "lam": 0.95,
        }
        train = trl_side if side == "trl" else our_side
        seconds = train(policy, common, "head" if side == SIDES[2] else "model")
    return {"reward": judge(policy), "seconds": seconds}


def make_policy(seed: int) -> Any:
    """A random Llama that never says the padding word."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=None,
        )
    )
    pad = torch.tensor([PAD])
    model.lm_head.register_forward_hook(lambda *each: each[2].index_fill(-1, pad, -1e4))
    return model


def make_tokenizer() -> Any:
    """One word a token: "w07" is token 7."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number:02}": number for number in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=f"w{PAD:02}"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=f"w{PAD:02}", eos_token=f"w{END:02}"
    )


def make_prompts() -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    made: list[list[int]] = torch.randint(2, WORDS, (ROWS, PROMPT), generator=generator).tolist()
    return made


def judge(policy: Any) -> float:
    """The mean share of the chosen word in completions of every prompt."""
    import torch

    torch.manual_seed(0)
    prompts = torch.tensor(make_prompts())
    with torch.no_grad():
        told = policy.eval().generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=COMPLETION,
            do_sample=True,
            top_k=0,
            pad_token_id=PAD,
            eos_token_id=END,
        )[:, PROMPT:]
    return float(((told == CHOSEN).sum(1) / (told != PAD).sum(1)).mean())


def our_side(policy: Any, common: dict[str, Any], critic: str) -> float:
    """Seconds of training."""
    from aligntune.training.ppo import PPOConfig, PPOTrainer

    def share(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [tokens.count(CHOSEN) / len(tokens) for tokens in completion_ids]

    steps = EPISODES // BATCH * common["num_ppo_epochs"]
    trainer = PPOTrainer(
        policy,
        PPOConfig(**common, critic=critic, max_steps=steps, max_completion_length=COMPLETION),
        share,
        [{"prompt": " ".join(f"w{word:02}" for word in prompt)} for prompt in make_prompts()],
        processing_class=make_tokenizer(),
    )
    began = time.monotonic()
    trainer.train()
    return time.monotonic() - began


def trl_side(policy: Any, common: dict[str, Any], _: str) -> float:
    """Seconds of training."""
    import datasets
    import torch
    from transformers import LlamaForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Share(torch.nn.Module):  # type: ignore[misc]
        """Called as a reward model: the share of the chosen word so far, at each position."""

        base_model_prefix = "counts"

        def counts(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
            told = attention_mask.clone()
            told[:, :PROMPT] = 0
            said = ((input_ids == CHOSEN) & told.bool()).cumsum(1)
            share = said / told.cumsum(1).clamp(min=1)
            return argparse.Namespace(hidden_states=[share[..., None]])

        def score(self, share: Any) -> Any:
            return share

    config = policy.config.to_dict() | {"num_labels": 1}
    value_model = LlamaForSequenceClassification(type(policy.config)(**config))
    value_model.model.load_state_dict(policy.model.state_dict())
    trainer = PPOTrainer(
        PPOConfig(
            **common,
            total_episodes=EPISODES,
            response_length=COMPLETION,
            stop_token="eos",
            num_sample_generations=0,
        ),
        make_tokenizer(),
        policy,
        None,
        Share(),
        datasets.Dataset.from_dict({"input_ids": make_prompts()}),
        value_model,
    )
    began = time.monotonic()
    trainer.train()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
