"""Which prompts a rollout takes, what rewards receive, and which arguments are refused."""

from __future__ import annotations

import tempfile
from typing import Any

from tests.containers.ppo.parts import near, policy, refuses, trainer
from tests.helpers.ppo_toy import END, PAD, Logs, share

from aligntune.worker.ppo.rollout import prompts_of


def check_rewards_are_given_what_trl_gives_them() -> None:
    chats = [
        {
            "prompt": [{"role": "user", "content": f"w{4 + row:02}"}],
            "answer": f"w{row:02}",
            "hard": row % 2 == 0,
        }
        for row in range(6)
    ]
    seen: list[Any] = []

    def spoken(prompts: Any, completions: Any, completion_ids: Any, answer: Any, **_: Any) -> Any:
        seen.append((prompts, completions, completion_ids, answer))
        return [1.0] * len(prompts)

    def hard(hard: Any, **_: Any) -> Any:
        return [2.0 if each else None for each in hard]

    logs, folder = Logs(), tempfile.mkdtemp()
    made = trainer(
        policy(),
        [spoken, hard],
        chats,
        logs=logs,
        folder=folder,
        reward_weights=[1.0, 0.25],
        max_steps=1,
        num_mini_batches=1,
        per_device_train_batch_size=6,
        gradient_accumulation_steps=1,
    )
    encoded: list[list[int]] = []
    whole = made.model.generate

    def generate(input_ids: Any, attention_mask: Any, **named: Any) -> Any:
        encoded.extend(
            row[keep.bool()].tolist() for row, keep in zip(input_ids, attention_mask, strict=True)
        )
        return whole(input_ids=input_ids, attention_mask=attention_mask, **named)

    made.model.generate = generate
    made.train()
    prompts, completions, ids, answers = seen[0]
    assert sorted(encoded) == [[2, 4 + row, 3] for row in range(6)]
    assert sorted(answers) == [f"w{row:02}" for row in range(6)]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert prompt == [{"role": "user", "content": f"w{4 + int(answer[1:]):02}"}]
    for completion, tokens in zip(completions, ids, strict=True):
        [message] = completion
        assert message["role"] == "assistant"
        spoken_words = [f"w{token:02}" for token in tokens if token not in (PAD, END)]
        assert message["content"].split() == spoken_words
    told = logs.entries[0]
    assert (told["rewards/spoken/mean"], told["rewards/spoken/std"]) == (1.0, 0.0)
    assert (told["rewards/hard/mean"], told["rewards/hard/std"]) == (2.0, 0.0)
    near(told["reward"], 1.25)
    text = trainer(
        policy(),
        lambda completions, **_: [float(isinstance(c, str)) for c in completions],
        logs=logs,
    )
    text.train()
    assert logs.of("reward")[-1] == 1.0


def check_a_pass_takes_every_prompt_in_an_order_of_its_own() -> None:
    passes = [[prompts_of(3 * number + part, 8, 20, 5) for part in range(3)] for number in (0, 1)]
    for parts in passes:
        taken = [row for part in parts for row in part]
        assert sorted(taken[:20]) == list(range(20))
        assert taken[20:] == taken[:4]  # the last rollout is filled up
    assert passes[0] != passes[1]
    assert passes[0][0] != prompts_of(0, 8, 20, 6)
    assert sorted(prompts_of(0, 8, 3, 0))[:3] == [0, 0, 0]  # fewer prompts than a rollout takes


def check_a_policy_that_moves_too_far_is_sampled_anew() -> None:
    rollouts: list[int] = []

    def note(completion_ids: Any, **_: Any) -> Any:
        rollouts.append(len(completion_ids))
        return share(completion_ids)

    named: dict[str, Any] = {"num_ppo_epochs": 4, "max_steps": 8}
    trainer(policy(), note, **named).train()
    assert rollouts == [16]
    rollouts.clear()
    trainer(policy(), note, target_kl=1e-9, **named).train()
    assert rollouts == [16] * 4  # the first minibatch of each does not differ, the second does


def check_what_cannot_be_meant_is_refused() -> None:
    for named, word in (
        ({"kl_estimator": "k2"}, "kl_estimator"),
        ({"critic": "none"}, "critic"),
        ({"lam": 1.5}, "lam"),
        ({"temperature": 0.0}, "temperature"),
        ({"num_ppo_epochs": 0}, "at least 1"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights"),
    ):
        refuses(ValueError, word, lambda named=named: trainer(policy(), **named))  # type: ignore[misc]
    one = trainer(policy(), lambda completions, **_: [1.0])
    refuses(ValueError, "returned 1 rewards for 16", one.train)
