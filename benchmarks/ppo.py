"""Compare our PPO with TRL's last one.

    python benchmarks/ppo.py [--seeds 5] [--rate 1e-3] [--kl 1e-3] [--episodes 1600] [--threads 2]

A tiny Llama learns to say one word: the reward is the fraction of that word in a completion. Both
sides get the same model, prompts, number of episodes and settings. They run in turn, seed by seed,
in the same environment, which is made in the user's cache folder. TRL 1.12.0 is the last version
with a PPO (`trl.experimental.ppo`); ours needs only its torch, transformers and accelerate. A cell
shows the reward of the final policy, with the same sampling on all sides; the mean reward of all
rollouts, which shows how soon it learned; and the seconds of `train()`.

Ours has a critic with its own body, as TRL's does. The last column is our default, a value head on
the policy.

A hook on the model's head prevents sampling of padding on both sides, because TRL treats a sampled
padding token as the end of a completion. Neither side clips gradients, as TRL's PPO never does.
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
WORDS = 32
PROMPT, COMPLETION, ROWS, BATCH = 4, 16, 256, 64


def main() -> None:
    """Print one line per seed, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--kl", type=float, default=1e-3, help="kl_coef")
    parser.add_argument("--episodes", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run(given)))
        return
    python = environment()
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    print(f"{'seed':>4}" + "".join(f"{side:>26}" for side in SIDES), flush=True)
    for seed in range(given.seeds):
        cells = []
        for side in SIDES:
            told = measure(python, side, seed, given)
            results[side].append(told)
            cells.append(f"{told['reward']:.4f} {told['mean']:.4f} {told['seconds']:5.1f} s")
        print(f"{seed:4}" + "".join(f"{cell:>26}" for cell in cells), flush=True)
    for side in SIDES:
        show(side, results[side], results["trl"])


def environment() -> Path:
    """The Python of an environment with TRL 1.12.0, created if it does not exist."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "aligntune-benchmarks" / "trl-1.12.0"
    python = folder / "bin" / "python"
    made = folder / "pins.json"
    if not made.exists() or json.loads(made.read_text()) != list(PINS):
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True)
        made.write_text(json.dumps(PINS))
    return python


def measure(python: Path, side: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Train once, in a separate process."""
    same = ["rate", "kl", "episodes", "threads"]
    words = [f"--{name}={getattr(given, name)}" for name in same]
    variables = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'shared'}",
        "OMP_NUM_THREADS": str(given.threads),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [python, __file__, "--side", side, "--seed", str(seed), *words],
        env=variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{side}, seed {seed}:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show(side: str, told: list[dict[str, float]], base: list[dict[str, float]]) -> None:
    """Print one line: rewards and times, and both compared with TRL's, seed by seed."""
    rewards, means, seconds = ([each[name] for each in told] for name in told[0])
    line = (
        f"{side}: reward {statistics.mean(rewards):.4f} (lowest {min(rewards):.4f}), "
        f"of all rollouts {statistics.mean(means):.4f}, {statistics.median(seconds):.1f} s"
    )
    if told is not base:
        pairs = list(zip(told, base, strict=True))
        times = [ours["seconds"] / theirs["seconds"] for ours, theirs in pairs]
        no_less = sum(ours["reward"] >= theirs["reward"] for ours, theirs in pairs)
        line += (
            f"; at least trl's reward on {no_less} of {len(told)} seeds, "
            f"in {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) of its time"
        )
    print(line, flush=True)


def run(given: argparse.Namespace) -> dict[str, float]:
    """Train on one side, and evaluate the final policy."""
    import torch
    from tests.helpers.ppo_toy import Logs

    torch.set_num_threads(given.threads)
    logs = Logs()
    with tempfile.TemporaryDirectory() as name:
        policy = make_policy(given.seed)
        common: dict[str, Any] = {
            "output_dir": name,
            "seed": given.seed,
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "learning_rate": given.rate,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": 0.0,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "num_mini_batches": 1,
            "logging_steps": 4,
            "num_ppo_epochs": 4,
            "temperature": 1.0,
            "kl_coef": given.kl,
            "cliprange": 0.2,
            "cliprange_value": 0.2,
            "vf_coef": 0.1,
            "gamma": 1.0,
            "lam": 0.95,
        }
        train = trl_side if given.side == "trl" else our_side
        critic = "head" if given.side == SIDES[2] else "model"
        seconds = train(policy, common, given.episodes, critic, logs)
    mean = statistics.mean(logs.of("reward") or logs.of("objective/scores"))
    return {"reward": judge(policy), "mean": mean, "seconds": seconds}


def make_policy(seed: int) -> Any:
    """A random Llama that never generates padding."""
    import torch
    from tests.helpers.ppo_toy import PAD, word_policy

    small = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 64}
    model = word_policy(WORDS, seed, num_attention_heads=4, num_key_value_heads=2, **small)
    pad = torch.tensor([PAD])
    model.lm_head.register_forward_hook(lambda *each: each[2].index_fill(-1, pad, -1e4))
    return model


def make_prompts() -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    made: list[list[int]] = torch.randint(2, WORDS, (ROWS, PROMPT), generator=generator).tolist()
    return made


def judge(policy: Any) -> float:
    """The mean fraction of the chosen word in 16 completions of every prompt."""
    import torch
    from tests.helpers.ppo_toy import CHOSEN, END, PAD

    torch.manual_seed(0)
    prompts = torch.tensor(make_prompts() * 16)
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


def our_side(policy: Any, common: dict[str, Any], episodes: int, critic: str, logs: Any) -> float:
    """Seconds of training."""
    from tests.helpers.ppo_toy import share, word_tokenizer

    from aligntune.worker.ppo.trainer import PPOConfig, PPOTrainer

    steps = episodes // BATCH * common["num_ppo_epochs"]
    trainer = PPOTrainer(
        policy,
        PPOConfig(**common, critic=critic, max_steps=steps, max_completion_length=COMPLETION),
        share,
        [{"prompt": " ".join(f"w{word:02}" for word in prompt)} for prompt in make_prompts()],
        processing_class=word_tokenizer(WORDS),
        callbacks=[logs],
    )
    return seconds_of_training(trainer)


def trl_side(policy: Any, common: dict[str, Any], episodes: int, _: str, logs: Any) -> float:
    """Seconds of training."""
    import datasets
    import torch
    from tests.helpers.ppo_toy import CHOSEN, word_tokenizer
    from transformers import LlamaForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Share(torch.nn.Module):  # type: ignore[misc]
        """Called as a reward model: the fraction of the chosen word so far, at each position."""

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
            total_episodes=episodes,
            response_length=COMPLETION,
            stop_token="eos",
            num_sample_generations=0,
        ),
        word_tokenizer(WORDS),
        policy,
        None,
        Share(),
        datasets.Dataset.from_dict({"input_ids": make_prompts()}),
        value_model,
        callbacks=[logs],
    )
    return seconds_of_training(trainer)


def seconds_of_training(trainer: Any) -> float:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    began = time.monotonic()
    trainer.train()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
