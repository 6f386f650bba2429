"""PPO on language models: sample, score, learn in a few epochs of minibatches, and repeat.

Schulman et al. 2017 (arXiv:1707.06347) with a KL penalty per token as in Ziegler et al. 2019
(arXiv:1909.08593) and Ouyang et al. 2022 (arXiv:2203.02155); Huang et al. 2024 (arXiv:2403.17031)
describe important details. It uses the public interface of transformers' Trainer, which owns
optimizer, schedule, checkpoints, logs and callbacks.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import GenerationConfig, Trainer
from transformers.trainer_utils import get_last_checkpoint

from aligntune.worker.modeling.generate import Generating, ends, generate, plain_generating, seeded
from aligntune.worker.modeling.model import disable_dropout
from aligntune.worker.modeling.reference import reference
from aligntune.worker.modeling.score import Scored, Sequences, score
from aligntune.worker.modeling.token_logprobs import Tensor
from aligntune.worker.ppo.config import PPOConfig
from aligntune.worker.ppo.critic import CriticSteps, frozen_reference, make_critic
from aligntune.worker.ppo.objective import (
    advantages_and_returns,
    kl_penalty,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from aligntune.worker.ppo.rollout import (
    RewardFunc,
    Rollout,
    Sample,
    minibatch_order,
    prompts_of,
    rewards_of,
)
from aligntune.worker.text.encoding import Encoder, Encoding

__all__ = ["PPOConfig", "PPOTrainer"]

STATE = "ppo_state.pt"
"""In a checkpoint: the critic's weights and the current rollout."""


class PPOTrainer(Trainer):  # type: ignore[misc]
    """Proximal policy optimization of a causal language model.

    Args:
        model: the policy, plain or with an adapter.
        args: see :class:`PPOConfig`.
        reward_funcs: one or more ``f(prompts, completions, completion_ids, **columns)``, each
            returning one number per completion, or None if it does not apply.
        train_dataset: rows with ``prompt`` (a text or a conversation) and any further columns,
            which the reward functions receive.
        eval_dataset: rows of the same kind, or several sets of them by name.
        processing_class: the tokenizer.
        ref_model: the reference of the KL penalty; by default the policy without its adapter, or a
            frozen copy of the policy.
        value_model: a model whose body a separate critic uses; by default a copy of the policy.
        callbacks: further trainer callbacks.
        generating, encode: prepares the model to generate; the tokens of a row's prompt.
        peft_config: an adapter to add to the policy first.
        optimizers: optimizer and schedule to use instead of those of ``args``.

    Attributes:
        critic: the value head, with its separate body if it has one.
        eval_samples: of the last evaluation, with ``prompt``, ``completion`` and ``reward``.

    Raises:
        ValueError: arguments are not valid.
    """

    def __init__(
        self,
        model: Any,
        args: PPOConfig,
        reward_funcs: RewardFunc | list[RewardFunc],
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: Any = None,
        ref_model: Any = None,
        value_model: Any = None,
        callbacks: list[Any] | None = None,
        generating: Generating | None = None,
        encode: Encoding | None = None,
        peft_config: Any = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        self.reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        weights = args.reward_weights or [1.0] * len(self.reward_funcs)
        if not self.reward_funcs or len(weights) != len(self.reward_funcs):
            raise ValueError(
                f"reward_weights has {len(weights)} weights for {len(self.reward_funcs)} rewards"
            )
        if args.world_size > 1 or args.n_gpu > 1:
            raise ValueError("PPO runs in one process, on one device")
        if processing_class is None or not len(train_dataset):
            raise ValueError("PPO needs a tokenizer (processing_class) and rows to train on")
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)

        if args.disable_dropout:
            disable_dropout(model)
        self.ref_model = frozen_reference(model, ref_model, args)
        self.critic = make_critic(model, value_model, args)

        self._generating = generating or plain_generating
        self._encode = encode or Encoder.plain(processing_class).prompt
        stops = ends(model, processing_class)
        if args.missing_eos_penalty and not stops:
            raise ValueError("missing_eos_penalty needs a token that ends a completion")
        pad = processing_class.pad_token_id
        self._sampling = GenerationConfig(
            max_new_tokens=args.max_completion_length,
            do_sample=True,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k or 0,
            pad_token_id=pad if pad is not None else [*stops, 0][0],
            eos_token_id=stops or None,
        )
        self._reward_weights = torch.tensor(weights)
        self._rollout: Rollout | None = None
        self._micro = 0
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._figures: defaultdict[str, list[float]] = defaultdict(list)
        self.eval_samples: list[dict[str, Any]] = []
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[CriticSteps(self.critic), *(callbacks or [])],
            optimizers=optimizers,
        )
        # compute_loss weighs the tokens of a minibatch itself; see there.
        self.model_accepts_loss_kwargs = False

    # What the trainer asks for

    def get_train_dataloader(self) -> Any:
        """Tickets for micro-batches, whose content is created when they are used."""
        args, rows = self.args, len(self.train_dataset)
        rollouts = -(-rows // args.rollout)
        tickets = rollouts * args.num_ppo_epochs * args.num_mini_batches
        numbers = list(range(tickets * args.gradient_accumulation_steps))
        return DataLoader(numbers, batch_size=1, collate_fn=lambda each: {"ticket": each[0]})

    def num_examples(self, dataloader: Any) -> int:
        return len(self.train_dataset)

    def create_optimizer(self, model: Any = None) -> Any:
        """One optimizer for policy and critic, so that a checkpoint holds both."""
        made = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if not made:
            weights = [weight for weight in self.critic.parameters() if weight.requires_grad]
            rate = self.args.critic_learning_rate
            for decayed in (True, False):
                group: dict[str, Any] = {
                    "params": [each for each in weights if (each.dim() > 1) == decayed]
                }
                group |= {"weight_decay": self.args.weight_decay if decayed else 0.0}
                optimizer.add_param_group(group | ({} if rate is None else {"lr": rate}))
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, **named: Any) -> Any:
        """See :class:`transformers.Trainer`; a run can be resumed in the middle of a rollout."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"no checkpoint in {self.args.output_dir}")
        self._rollout, self._micro = None, 0
        self._sums.clear()
        self._figures.clear()
        self.critic.train().zero_grad()
        if resume_from_checkpoint:
            path = Path(str(resume_from_checkpoint)) / STATE
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.critic.load_state_dict(state["critic"], strict=False)
            if state["rollout"] is not None:
                self._rollout = Rollout.of_state(state["rollout"], self.args.device)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **named)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The policy alone; in a checkpoint also the critic and the rollout."""
        super().save_model(output_dir, _internal_call)
        if _internal_call:
            rollout = self._rollout.state() if self._rollout else None
            state = {"critic": self.critic.learned(), "rollout": rollout}
            torch.save(state, Path(output_dir or self.args.output_dir) / STATE)

    def training_step(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        """One micro-batch. If the rollout is used up, sample the next one first."""
        # In place, because the trainer counts the tokens of the inputs that it passed.
        inputs.update(self._next_micro_batch())
        loss = super().training_step(model, inputs, *given, **named)
        self._micro += 1
        if self._micro == self.args.gradient_accumulation_steps:
            self._end_minibatch()
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Policy and value loss, each a mean over all tokens of the minibatch.

        So every token has the same weight in any micro-batch. The trainer divides by the number of
        micro-batches, which is undone here.
        """
        args = self.args
        batch = Sequences(inputs["input_ids"], inputs["prompts"], inputs["completions"])
        mask, tokens = batch.mask, inputs["minibatch_tokens"]
        scored, values = self._forward(model, batch)
        policy, sums = policy_loss(
            scored.log_probs, inputs["old_log_probs"], inputs["advantages"], mask, args.cliprange
        )
        value, cut = value_loss(
            values, inputs["old_values"], inputs["returns"], mask, args.cliprange_value
        )
        sums |= {"policy_loss": policy.detach(), "value_loss": value.detach()}
        sums |= {"entropy": (scored.entropy * mask).sum(), "clip_ratio/value_mean": cut}
        sums |= {"tokens": mask.sum()}
        totals = torch.stack([total.float() for total in sums.values()]).tolist()
        for name, total in zip(sums, totals, strict=True):
            self._sums[name] += total
        loss = (policy + args.vf_coef * value) / tokens * self.current_gradient_accumulation_steps
        return (loss, scored) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds means over the minibatches and rollouts since the last log."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._figures.items()}
            self._figures.clear()
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Rewards of completions sampled as in training, always with the same random numbers.

        Returns:
            Means as in training's logs, by prefixed name: ``eval_reward``, ``eval_kl`` and so on.
        """
        found = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(found, dict):
            figures: dict[str, float] = {}
            for name, rows in found.items():
                figures |= self.evaluate(rows, ignore_keys, f"{metric_key_prefix}_{name}")
            return figures
        sample = self._sample([found[place] for place in range(len(found))], self.args.seed)
        metrics = sample.metrics(self.reward_funcs)
        if self._has_reference:
            parts = torch.arange(len(sample.rows)).split(self.args.per_device_eval_batch_size)
            total = 0.0
            with torch.no_grad():
                for part in (sample.batch[rows] for rows in parts):
                    log_probs = score(self.model, part, self.args.temperature).log_probs
                    kl = self._kl(log_probs, self._reference_log_probs(part))
                    total += float((kl * part.mask).sum())
            metrics["kl"] = total / int(sample.batch.completions.sum())
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.eval_samples = sample.shown(self.args.num_eval_samples)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # Rollouts

    def _next_micro_batch(self) -> dict[str, Any]:
        args = self.args
        if self._rollout is None or (not self._micro and self._rollout.spent(args.minibatch)):
            self._rollout = self._roll_out(0 if self._rollout is None else self._rollout.number + 1)
        begin = self._rollout.taken * args.minibatch
        rows = self._rollout.rows(begin, args.minibatch)
        size = args.per_device_train_batch_size
        inputs = self._rollout.micro_batch(begin + self._micro * size, size)
        return inputs | {"minibatch_tokens": self._rollout.batch.completions[rows].sum()}

    def _end_minibatch(self) -> None:
        assert self._rollout is not None
        tokens = self._sums.pop("tokens")
        means = {name: total / tokens for name, total in self._sums.items()}
        self._sums.clear()
        limit = self.args.target_kl
        over = limit is not None and means["approx_kl"] > limit
        self._rollout, self._micro = self._rollout.after(1, over), 0
        means["clip_ratio/region_mean"] = (
            means["clip_ratio/low_mean"] + means["clip_ratio/high_mean"]
        )
        for name, mean in means.items():
            self._figures[name].append(mean)

    def _roll_out(self, number: int) -> Rollout:
        """Sample completions, and score them with rewards, policy, critic and reference.

        Policy and critic use the micro-batches of the first epoch, so that the first ratio of
        probabilities is exactly 1.
        """
        args, seed = self.args, self.args.seed * 1_000_003 + number
        data_seed = args.seed if args.data_seed is None else args.data_seed
        places = prompts_of(number, args.rollout, len(self.train_dataset), data_seed)
        sample = self._sample([self.train_dataset[place] for place in places], seed)
        batch, mask = sample.batch, sample.batch.mask
        order = minibatch_order(args.num_ppo_epochs, args.rollout, seed).to(args.device)

        self.model.train()
        log_probs, values, kl = (torch.zeros(mask.shape, device=args.device) for _ in range(3))
        with torch.no_grad():
            for rows in order[0].split(args.per_device_train_batch_size):
                part = batch[rows]
                scored, value = self._forward(self.model, part)
                longest = value.shape[1]
                log_probs[rows, :longest], values[rows, :longest] = scored.log_probs, value
                if self._has_reference:
                    reference = self._reference_log_probs(part)
                    kl[rows, :longest] = self._kl(scored.log_probs, reference)

        scores = sample.scores(args.missing_eos_penalty).to(args.device)
        rewards = token_rewards(scores, kl, mask, args.kl_coef)
        if args.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = advantages_and_returns(rewards, values, mask, args.gamma, args.lam)
        figures = sample.metrics(self.reward_funcs)
        figures |= {"kl": float(masked_mean(kl, mask))} if self._has_reference else {}
        figures |= {"values/mean": float(masked_mean(values, mask))}
        figures |= {"num_tokens": float(self.state.num_input_tokens_seen)}
        for name, value in figures.items():
            self._figures[name].append(value)
        if args.whiten_advantages:
            advantages = whiten(advantages, mask)
        return Rollout(number, batch, log_probs, values, advantages, returns, order)

    def _sample(self, rows: list[dict[str, Any]], seed: int) -> Sample:
        """One completion with rewards for each row's prompt."""
        prompts = [self._encoded(row) for row in rows]
        with seeded(seed, self.args.device):
            completions = generate(
                self.model,
                prompts,
                self._sampling,
                self.args.generation_batch_size,
                self._generating,
            )
        texts = self.processing_class.batch_decode(completions, skip_special_tokens=True)
        rewards = rewards_of(self.reward_funcs, rows, texts, completions, self.state, self._figures)
        pad, stops = self._sampling.pad_token_id, self._sampling.eos_token_id or []
        ended = torch.tensor([completion[-1] in stops for completion in completions])
        batch = Sequences.of(prompts, completions, pad, self.args.device)
        sample = Sample(rows, texts, batch, rewards, self._reward_weights, ended)
        if bool(rewards.isnan().all(1).any()):
            warnings.warn(
                "a completion got no reward from any function; it counts as 0", stacklevel=2
            )
        return sample

    def _encoded(self, row: dict[str, Any]) -> list[int]:
        if not (tokens := self._encode(row)):
            raise ValueError(f"a prompt has no tokens: {row['prompt']!r}")
        return tokens

    # Models

    def _forward(self, model: Any, batch: Sequences) -> tuple[Scored, Tensor]:
        """The policy's scores of completions, and the critic's (B, T) values."""
        scored = score(model, batch, self.args.temperature, hidden=self.critic.body is None)
        with self.accelerator.autocast():
            return scored, self.critic(batch, scored.hidden)

    @property
    def _has_reference(self) -> bool:
        return bool(self.args.kl_coef)

    def _kl(self, log_probs: Tensor, reference: Tensor) -> Tensor:
        return kl_penalty(log_probs, reference, self.args.kl_estimator)

    def _reference_log_probs(self, batch: Sequences) -> Tensor:
        """(B, T) log-probabilities of completions under the reference."""
        with reference(self.model, self.ref_model) as model, self.accelerator.autocast():
            return score(model, batch, self.args.temperature).log_probs
