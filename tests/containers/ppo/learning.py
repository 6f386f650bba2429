"""The PPO trainer learns: with both critics, an adapter and 4-bit weights, and to end."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from tests.containers.ppo.parts import adapted, equal, near, policy, tokenizer, trainer
from tests.helpers.ppo_toy import END, PAD, Logs
from transformers import AutoModelForCausalLM


def learns(**named: Any) -> list[float]:
    logs = Logs()
    settings = {"max_steps": 120, "learning_rate": 5e-3, "kl_coef": 0.001, **named}
    trainer(policy(), logs=logs, per_device_train_batch_size=16, **settings).train()
    return logs.of("reward")


def check_it_learns_with_a_value_head() -> None:
    rewards = learns()
    assert rewards[0] < 0.15
    assert rewards[-1] > 0.9, rewards


def check_it_learns_with_a_critic_of_its_own() -> None:
    rewards = learns(critic="model", kl_estimator="k3")
    assert rewards[-1] > 0.9, rewards


def check_an_adapter_learns() -> None:
    logs = Logs()
    model = adapted(policy(spread=0.1))
    before = {
        name: value.clone() for name, value in model.state_dict().items() if "lora" not in name
    }
    named: dict[str, Any] = {"max_steps": 60, "learning_rate": 2e-2, "kl_coef": 0.001}
    trainer(model, logs=logs, per_device_train_batch_size=16, **named).train()
    rewards = logs.of("reward")
    assert rewards[-1] > rewards[0] + 0.2, rewards
    equal(before, {name: value for name, value in model.state_dict().items() if "lora" not in name})


def check_nothing_is_learned_without_a_learning_rate() -> None:
    model, logs = policy(), Logs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(model, logs=logs, learning_rate=0.0, max_steps=12).train()
    equal(before, model.state_dict())
    near(logs.of("ratio"), [1.0] * 12, 1e-6)  # batches of other rows may round differently
    assert set(logs.of("kl")) == {0.0}
    assert set(logs.of("values/mean")) == {0.0}


def check_completions_learn_to_end() -> None:
    """The end token is learned, also where it is what pads; and a penalty for none is felt."""
    for pad in (PAD, END):
        logs = Logs()
        trainer(
            policy(),
            lambda completions, **_: [0.0] * len(completions),
            words=tokenizer(pad),
            logs=logs,
            per_device_train_batch_size=16,
            learning_rate=5e-3,
            kl_coef=0.001,
            missing_eos_penalty=1.0,
            max_steps=80,
        ).train()
        clipped = logs.of("completions/clipped_ratio")
        assert clipped[0] > 0.5, clipped
        assert clipped[-1] < 0.1, clipped
        assert set(logs.of("reward")) == {0.0}  # told without the penalty


def check_the_critic_learns_the_value() -> None:
    for critic in ("head", "model"):
        logs = Logs()
        trainer(
            policy(),
            lambda completions, **_: [0.5] * len(completions),
            logs=logs,
            critic=critic,
            learning_rate=0.0,
            critic_learning_rate=1e-2,
            max_steps=60,
        ).train()
        assert abs(logs.of("values/mean")[-1] - 0.5) < 0.1, logs.of("values/mean")
        assert logs.of("kl")[-1] == 0


def check_four_bit_weights_learn() -> None:
    """bitsandbytes repacks them on a CPU once they are used in evaluation mode: evaluation.py."""
    from transformers import BitsAndBytesConfig

    folder = tempfile.mkdtemp()
    policy(spread=0.1, hidden_size=64, intermediate_size=64).save_pretrained(folder)
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = adapted(AutoModelForCausalLM.from_pretrained(folder, quantization_config=four))
    logs = Logs()
    trainer(model, logs=logs, max_steps=8, learning_rate=2e-2).train()
    assert min(logs.of("grad_norm")) > 1e-4
    near(logs.of("ratio")[0], 1.0, 1e-3)  # with gradients another kernel multiplies
    assert max(logs.of("approx_kl")) > 1e-4


def check_gradients_of_policy_and_critic_are_clipped() -> None:
    """Each by itself, to the norm that was asked for."""
    for critic in ("head", "model"):
        model = policy(spread=0.15)
        made = trainer(
            model, critic=critic, optim="sgd", learning_rate=1.0, max_grad_norm=1e-3, max_steps=1
        )
        before = [[each.detach().clone() for each in m.parameters()] for m in (model, made.critic)]
        made.train()
        for module, weights in zip((model, made.critic), before, strict=True):
            moved = [one - two for one, two in zip(module.parameters(), weights, strict=True)]
            near(torch.stack([each.norm() for each in moved]).norm().detach(), 1e-3, 2e-5)
