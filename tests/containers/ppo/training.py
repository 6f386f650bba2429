"""The PPO trainer: one rollout against plain transformers, learning, resuming, rewards."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy
import torch
from tests.containers.ppo.parts import (
    CHOSEN,
    END,
    PAD,
    PROMPTS,
    Logs,
    adapted,
    equal,
    near,
    policy,
    refuses,
    share,
    tokenizer,
    trainer,
)
from transformers import AutoModelForCausalLM

from aligntune.worker.ppo.rollout import prompts_of


def steps_by_plain_transformers(
    model: Any,
    reference: Any,
    seen: list[tuple[str, list[int]]],
    steps: int,
    rate: float,
    told: Any,
) -> list[float]:
    """PPO as the papers say it, by gradient descent, a sequence at a time, so without padding."""
    words = tokenizer()
    rows = [(words(prompt)["input_ids"], completion) for prompt, completion in seen]
    head = torch.zeros(model.config.hidden_size + 1, requires_grad=True)

    def look(model: Any, prompt: list[int], completion: list[int]) -> tuple[Any, Any]:
        outputs = model(torch.tensor([prompt + completion]), output_hidden_states=True)
        begin = len(prompt) - 1
        p = (outputs.logits[0, begin:-1] / told.temperature).log_softmax(-1)
        states = outputs.hidden_states[-1][0, begin:-1]
        return p[range(len(completion)), completion], states @ head[:-1] + head[-1]

    notes, advantages = [], []
    for prompt, completion in rows:
        with torch.no_grad():
            p, v = look(model, prompt, completion)
            q, _ = look(reference, prompt, completion)
        r = [-told.kl_coef * float(kl) for kl in p - q]
        r[-1] += share([completion])[0] or 0.0
        r[-1] -= 0.0 if completion[-1] == END else told.missing_eos_penalty
        values, advantage = [*v.tolist(), 0.0], 0.0
        found: list[float] = []
        for t in reversed(range(len(r))):
            delta = r[t] + told.gamma * values[t + 1] - values[t]
            advantage = delta + told.gamma * told.lam * advantage
            found.insert(0, advantage)
        advantages += found
        notes.append((p, v, torch.tensor(found), torch.tensor(found) + v))
    mean, deviation = numpy.mean(advantages), numpy.std(advantages, ddof=1)
    learned = [*model.parameters(), head]
    losses = []
    for _ in range(steps):
        total = torch.zeros(())
        for (prompt, completion), (p, v, a, returns) in zip(rows, notes, strict=True):
            new, values = look(model, prompt, completion)
            a = (a - mean) / deviation
            for t in range(len(completion)):
                ratio = (new[t] - p[t]).exp()
                total = total - torch.min(ratio * a[t], ratio.clamp(0.8, 1.2) * a[t])
                close = v[t] + (values[t] - v[t]).clamp(-0.2, 0.2)
                error = torch.max((values[t] - returns[t]) ** 2, (close - returns[t]) ** 2)
                total = total + told.vf_coef * 0.5 * error
        loss = total / len(advantages)
        losses.append(float(loss))
        for weight, slope in zip(learned, torch.autograd.grad(loss, learned), strict=True):
            weight.data -= rate * slope
    return losses


def check_a_rollout_is_learned_as_plain_transformers_would() -> None:
    """Three steps on one rollout, by gradient descent, from another reference than the policy."""
    seen: list[tuple[str, list[int]]] = []

    def note(prompts: Any, completion_ids: Any, **named: Any) -> Any:
        seen.extend(zip(prompts, completion_ids, strict=True))
        return share(completion_ids)

    model, reference, logs = policy(spread=0.15), policy(seed=1, spread=0.1), Logs()
    other = copy.deepcopy(model)
    made = trainer(
        model,
        note,
        logs=logs,
        ref_model=copy.deepcopy(reference),
        optim="sgd",
        learning_rate=0.3,
        max_grad_norm=0.0,
        num_mini_batches=1,
        num_ppo_epochs=3,
        max_steps=3,
        temperature=0.8,
        kl_coef=0.1,
        gamma=0.98,
        vf_coef=0.5,
        missing_eos_penalty=0.5,
    )
    made.train()
    assert len(seen) == 8
    assert len({len(tokens) for _, tokens in seen}) > 1
    wanted = steps_by_plain_transformers(other, reference, seen, 3, 0.3, made.args)
    near(logs.of("loss"), wanted, 1e-5)
    moved = max(logs.of("approx_kl"))
    assert moved > 1e-3, f"the policy hardly moved ({moved})"
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        distance = float((one - two).abs().max())
        assert distance < 1e-5, f"{name} is {distance} apart"


def check_accumulation_changes_nothing() -> None:
    found = []
    for batch, accumulated in ((8, 1), (2, 4), (1, 8)):
        model, logs = policy(spread=0.15), Logs()
        trainer(
            model,
            logs=logs,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            optim="sgd",
            learning_rate=0.3,
            max_steps=4,
        ).train()
        found.append((logs, model.state_dict()))
    for logs, weights in found[1:]:
        for name in ("loss", "grad_norm", "entropy", "value_loss", "approx_kl"):
            near(logs.of(name), found[0][0].of(name), 1e-4)
        for name, weight in weights.items():
            near(weight, found[0][1][name], 1e-5)


def check_the_first_ratio_is_exactly_one() -> None:
    kinds: list[tuple[bool, dict[str, Any]]] = [
        (False, {"critic": "head"}),
        (False, {"critic": "model", "temperature": 0.7}),
        (True, {"critic": "head"}),
        (False, {"bf16": True}),
        (True, {"critic": "model", "gradient_checkpointing": True}),
    ]
    for lora, named in kinds:
        model, logs = policy(spread=0.2, attention_dropout=0.5), Logs()
        trainer(adapted(model) if lora else model, logs=logs, **named).train()
        for name, wanted in (("ratio", 1.0), ("approx_kl", 0.0), ("clip_ratio/region_mean", 0.0)):
            told = logs.of(name)
            assert told[0] == wanted, f"{name} is {told[0]} at first ({named})"
            assert told[3] != 1.0 or name != "ratio"


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


def check_kl_is_to_the_model_as_it_was() -> None:
    """The evaluation's KL after training, against plain transformers, with and without adapter."""
    for lora in (False, True):
        seen: list[tuple[str, list[int]]] = []

        def note(prompts: Any, completion_ids: Any, seen: Any = seen, **_: Any) -> Any:
            seen[:] = zip(prompts, completion_ids, strict=True)
            return share(completion_ids)

        model = adapted(policy(spread=0.1)) if lora else policy(spread=0.1)
        made = trainer(
            model, note, eval_rows=PROMPTS, temperature=0.8, learning_rate=1e-2, max_steps=8
        )
        made.train()
        told = made.evaluate()["eval_kl"]
        total, count = 0.0, 0
        for prompt, completion in seen:
            ids = tokenizer()(prompt)["input_ids"]
            log_probs = []
            for each in (model.eval(), policy(spread=0.1).eval()):
                with torch.no_grad():
                    logits = each(torch.tensor([ids + completion])).logits[0, len(ids) - 1 : -1]
                p = (logits.double() / 0.8).log_softmax(-1)
                log_probs.append(float(p[range(len(completion)), completion].sum()))
            total, count = total + log_probs[0] - log_probs[1], count + len(completion)
        assert abs(told) > 0.01, told
        near(told, total / count)
        assert (made.ref_model is None) == (lora)


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
    told = logs.told[0]
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
