"""A resumed run, an evaluation in between, and what is saved."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from tests.containers.ppo.parts import PROMPTS, adapted, equal, policy, trainer
from tests.helpers.ppo_toy import CHOSEN, Logs, share
from transformers import AutoModelForCausalLM


def resumed(stop: int, lora: bool = False, **named: Any) -> None:
    def made() -> Any:
        return adapted(policy(spread=0.1)) if lora else policy(spread=0.1)

    named = {"max_steps": 14, "lr_scheduler_type": "linear", **named}

    def reward(completion_ids: Any, note: Any, **_: Any) -> list[float]:
        return [
            (told or 0) * len(said) for told, said in zip(share(completion_ids), note, strict=True)
        ]

    rows = [{**row, "note": "x" * (1 + place % 3)} for place, row in enumerate(PROMPTS)]
    whole, folder = Logs(), tempfile.mkdtemp()
    straight = trainer(made(), reward, rows, logs=whole, **named)
    straight.train()
    first, second = Logs(stop), Logs()
    trainer(made(), reward, rows, logs=first, folder=folder, **named).train()
    torch.manual_seed(99)
    again = trainer(made(), reward, rows, logs=second, folder=folder, **named)
    again.train(resume_from_checkpoint=f"{folder}/checkpoint-{stop}")
    assert again.state.global_step == straight.state.global_step == 14
    assert again.state.epoch == straight.state.epoch
    equal(straight.model.state_dict(), again.model.state_dict())
    equal(straight.critic.state_dict(), again.critic.state_dict())
    for name in ("loss", "reward", "kl", "entropy", "grad_norm", "learning_rate"):
        assert first.of(name) + second.of(name) == whole.of(name), name


def check_a_resumed_run_reaches_the_same_end() -> None:
    """Stopped in the middle of a rollout, at its end, and at the end of a pass over the prompts."""
    resumed(5)
    resumed(8, num_mini_batches=3, max_completion_length=3)
    resumed(8)


def check_a_resumed_adapter_reaches_the_same_end() -> None:
    resumed(
        6, lora=True, critic="model", target_kl=0.003, include_num_input_tokens_seen="non_padding"
    )


def check_an_evaluation_leaves_training_as_it_was() -> None:
    found = []
    for strategy in ("no", "steps"):
        made = trainer(policy(), eval_rows=PROMPTS[:6], eval_strategy=strategy, eval_steps=3)
        made.train()
        found.append(made)
    equal(found[0].model.state_dict(), found[1].model.state_dict())
    first, samples = found[1].evaluate(), found[1].eval_samples
    assert first == found[1].evaluate()
    assert [sample["prompt"] for sample in samples] == [row["prompt"] for row in PROMPTS[:4]]
    wanted = {"eval_reward", "eval_kl", "eval_rewards/share/mean", "eval_completions/mean_length"}
    assert wanted <= first.keys()
    for sample in samples:
        said = sample["completion"].split()
        assert sample["reward"] == 0 or f"w{CHOSEN:02}" in said


def check_saved_is_the_policy_alone() -> None:
    from safetensors.torch import load_file

    for lora in (False, True):
        folder = tempfile.mkdtemp()
        made = trainer(adapted(policy()) if lora else policy(), critic="model", max_steps=4)
        made.train()
        made.save_model(folder)
        files = {path.name for path in Path(folder).iterdir()}
        assert "ppo_state.pt" not in files
        if lora:
            weights = load_file(f"{folder}/adapter_model.safetensors")
            assert all("lora" in name for name in weights)
        else:
            again = AutoModelForCausalLM.from_pretrained(folder)
            equal(made.model.state_dict(), again.state_dict())
