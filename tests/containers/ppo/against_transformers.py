"""One rollout, and the KL after training, against plain transformers."""

from __future__ import annotations

import copy
from typing import Any

import numpy
import torch
from tests.containers.ppo.parts import PROMPTS, adapted, near, policy, tokenizer, trainer
from tests.helpers.ppo_toy import END, Logs, share


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
