"""What PPO asks of models, against plain transformers on one sequence at a time."""

from __future__ import annotations

from typing import Any

import torch
from tests.containers.ppo.parts import (
    PROMPTS,
    WORDS,
    adapted,
    near,
    policy,
    refuses,
    tokenizer,
    trainer,
)
from tests.helpers.ppo_toy import END, PAD
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from aligntune.errors import TrainingError
from aligntune.worker.modeling.generate import plain_generating, up_to_end
from aligntune.worker.modeling.model import decoder
from aligntune.worker.modeling.reference import reference
from aligntune.worker.modeling.score import Sequences, score
from aligntune.worker.ppo.critic import Critic


def check_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, bos_token_id=None, eos_token_id=END, **shape)
    )
    for model in (policy(spread=0.3).train(), gpt2.eval()):
        prompts = [[4], [5, 6, 7], [8, 9], [10, 11, 12, 13]]
        completions = [[3, 5, END], [2], [9, 9, 9, 9, END], [7, 8]]
        batch = Sequences.of(prompts, completions, PAD, "cpu")
        told: Any = score(model, batch, 0.7, hidden=True)
        junk = torch.where(batch.attention_mask.bool(), batch.ids, 20)
        other = score(model, Sequences(junk, batch.prompts, batch.completions), 0.7, hidden=True)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            outputs = model(torch.tensor([prompt + completion]), output_hidden_states=True)
            begin, length = len(prompt) - 1, len(completion)
            p = (outputs.logits[0, begin:-1].double() / 0.7).log_softmax(-1)
            real = p.gather(-1, torch.tensor(completion)[:, None])[:, 0]
            near(told.log_probs[row, :length].detach(), real.detach())
            near(told.entropy[row, :length], -(p.exp() * p).sum(-1).detach())
            near(
                told.hidden[row, :length].detach(), outputs.hidden_states[-1][0, begin:-1].detach()
            )
            for name in ("log_probs", "entropy", "hidden"):
                one, two = getattr(told, name)[row, :length], getattr(other, name)[row, :length]
                assert torch.equal(one, two), f"{name} of row {row} depends on padding"


def check_a_critic_of_its_own_values_the_state_before_a_token() -> None:
    prompts, completions = [[4], [5, 6, 7]], [[3, 5, END], [2]]
    batch = Sequences.of(prompts, completions, PAD, "cpu")
    body = policy(spread=0.3)
    critic = Critic(body.config.hidden_size, decoder(body))
    torch.nn.init.normal_(critic.head.weight)
    told = critic(batch, None).detach()
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        for place in range(len(completion)):
            before = torch.tensor([prompt + completion[:place]])
            state = body(before, output_hidden_states=True).hidden_states[-1][0, -1]
            near(told[row, place], (critic.head.weight @ state).detach()[0])


def check_a_completion_is_what_comes_up_to_its_end() -> None:
    assert up_to_end([5, END, 6, END], [END]) == [5, END]
    assert up_to_end([END, 6], [END]) == [END]
    assert up_to_end([5, PAD, 6], [END]) == [5, PAD, 6]
    assert up_to_end([5, 9, END], [END, 9]) == [5, 9]


def check_samples_are_of_the_distribution_they_are_scored_by() -> None:
    """Prompts of mixed lengths, so that most are padded on the left while sampling."""
    seen: list[tuple[str, list[int]]] = []

    def note(prompts: Any, completion_ids: Any, **_: Any) -> list[float]:
        seen.extend(zip(prompts, completion_ids, strict=True))
        return [0.0] * len(prompts)

    model = policy(spread=0.2)
    model.generation_config.repetition_penalty = 5.0  # would change what is sampled
    model.generation_config.top_k = 2
    rows = [
        {"prompt": prompt}
        for prompt in ("w04", "w05 w06 w07 w08 w09 w10 w11", "w12 w13 w14") * 1000
    ]
    made = trainer(
        model, note, rows[:8], eval_rows=rows, temperature=0.7, max_completion_length=2, kl_coef=0.0
    )
    made.evaluate()
    assert model.generation_config.top_k == 2
    for prompt in ("w04", "w12 w13 w14"):
        tokens = torch.tensor([tokenizer()(prompt)["input_ids"]])
        p = (model(tokens).logits[0, -1].double() / 0.7).softmax(-1).detach()
        first = [tokens[0] for text, tokens in seen if text == prompt]
        counts = torch.bincount(torch.tensor(first), minlength=WORDS)
        squares = float(((counts - len(first) * p) ** 2 / (len(first) * p)).sum())
        assert len(first) == 1000
        assert squares < 60, f"chi squared {squares} on {WORDS - 1} degrees of freedom"


def check_what_unsloth_may_return_is_refused() -> None:
    class Odd(LlamaForCausalLM):  # type: ignore[misc]
        returns: Any = None

        def forward(self, *given: Any, **named: Any) -> Any:
            outputs = super().forward(*given, **named)
            for name, value in self.returns(outputs).items():
                setattr(outputs, name, value)
            return outputs

    model = Odd(policy().config)
    batch = Sequences.of([[4, 5]], [[6, END]], PAD, "cpu")
    for returns, word in (
        (lambda told: {"logits": object()}, "UNSLOTH_RETURN_LOGITS=1"),
        (lambda told: {"logits": told.logits[..., :8]}, "UNSLOTH_RETURN_HIDDEN_STATES=0"),
        (lambda told: {"logits": told.logits[:, :-1]}, "max_length"),
        (lambda told: {"hidden_states": []}, "critic"),
    ):
        model.returns = returns
        refuses(TrainingError, word, lambda: score(model, batch, 1.0, hidden=True))


def check_generation_is_in_sorted_batches_within_the_context() -> None:
    inside, widths = [], []

    def generating(model: Any) -> Any:
        inside.append(model)
        return plain_generating(model)

    made = trainer(
        policy(), eval_rows=PROMPTS, generating=generating, generation_batch_size=4, kl_coef=0.0
    )
    whole = made.model.generate

    def generate(input_ids: Any, **named: Any) -> Any:
        assert not made.model.training
        widths.append(tuple(input_ids.shape))
        return whole(input_ids=input_ids, **named)

    made.model.generate = generate
    made.model.train()
    made.evaluate()
    assert made.model.training
    assert widths == [(4, width) for width in (5, 4, 3, 2, 1)]
    assert inside == [made.model]


def check_an_adapter_that_is_gone_on_with_is_its_own_reference() -> None:
    """Not the base model: a policy that has learned by an adapter is held to what it learned."""
    model = adapted(policy(spread=0.5))
    batch = Sequences.of([[4, 5], [6]], [[7, END], [8, 9]], PAD, "cpu")
    model.eval()
    base = score(model, batch, 1.0).log_probs
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.5)
    begun = score(model, batch, 1.0).log_probs
    assert not torch.allclose(begun, base, atol=1e-3)

    started = trainer(model, max_steps=1, kl_coef=0.1)
    learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learned
    assert not any(".ref." in name for name in learned)
    started.train()
    model.eval()
    assert not torch.allclose(score(model, batch, 1.0).log_probs, begun, atol=1e-6)
    with reference(model, None) as kept:
        near(score(kept, batch, 1.0).log_probs, begun)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == learned
