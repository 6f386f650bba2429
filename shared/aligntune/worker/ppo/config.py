"""Arguments of the PPO trainer."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import TrainingArguments


@dataclass
class PPOConfig(TrainingArguments):  # type: ignore[misc]
    """Arguments of ``PPOTrainer``, named as TRL's were where those exist.

    ``per_device_train_batch_size`` times ``gradient_accumulation_steps`` sequences are a minibatch,
    one optimizer step; ``max_steps`` counts these. A rollout is ``num_mini_batches`` minibatches,
    used ``num_ppo_epochs`` times. ``num_train_epochs`` are passes over the prompts.

    Attributes:
        learning_rate: of policy and critic.
        critic_learning_rate: of the critic, if it differs.
        num_ppo_epochs: passes over each rollout.
        num_mini_batches: minibatches per rollout.
        kl_coef: reward lost per nat of divergence from the reference; 0 needs no reference.
        kl_estimator: "k1" or "k3", see :func:`aligntune.worker.ppo.objective.kl_penalty`.
        cliprange: how far a token's ratio of probabilities may go from 1.
        cliprange_value: how far a value may move from the rollout's value.
        vf_coef: weight of the value loss.
        gamma: discount per token.
        lam: of generalized advantage estimation.
        whiten_rewards: scale rewards to variance 1 over a rollout's tokens, and keep their mean.
        whiten_advantages: scale advantages to mean 0 and variance 1 over a rollout's tokens.
        missing_eos_penalty: subtracted from the score of a completion without an end token.
        target_kl: KL of the policy from the sampling policy, in nats per token. If a minibatch
            exceeds it, the rest of the rollout is skipped.
        reward_weights: one per reward function; 1 each by default.
        max_completion_length: in tokens.
        temperature: sampling temperature, which log-probabilities use too.
        top_p, top_k: of sampling. As in TRL's GRPO, log-probabilities ignore them; off by default.
        generation_batch_size: completions per batch of sampling.
        critic: "head", one linear layer on the policy's last hidden states, which learn from it
            too; or "model", a second model with such a head.
        disable_dropout: in policy, reference and critic.
        num_eval_samples: completions of an evaluation to keep as samples.
    """

    learning_rate: float = 3e-6
    critic_learning_rate: float | None = None
    logging_steps: float = 10
    num_ppo_epochs: int = 4
    num_mini_batches: int = 1
    kl_coef: float = 0.05
    kl_estimator: str = "k1"
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    missing_eos_penalty: float | None = None
    target_kl: float | None = None
    reward_weights: list[float] | None = None
    max_completion_length: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    generation_batch_size: int = 64
    critic: str = "head"
    disable_dropout: bool = True
    num_eval_samples: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = {
            'kl_estimator is "k1" or "k3"': self.kl_estimator not in ("k1", "k3"),
            'critic is "head" or "model"': self.critic not in ("head", "model"),
            "counts are at least 1": min(
                self.num_ppo_epochs,
                self.num_mini_batches,
                self.max_completion_length,
                self.generation_batch_size,
            )
            < 1,
            "gamma and lam are from 0 to 1": not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1),
            "temperature is more than 0": self.temperature <= 0,
            "cliprange and cliprange_value are more than 0": min(
                self.cliprange, self.cliprange_value
            )
            <= 0,
            "missing_eos_penalty is more than 0": (self.missing_eos_penalty or 1) <= 0,
            "target_kl is more than 0": (self.target_kl or 1) <= 0,
        }
        for rule, broken in wrong.items():
            if broken:
                raise ValueError(rule)

    @property
    def minibatch(self) -> int:
        """Sequences per optimizer step."""
        return int(self.per_device_train_batch_size * self.gradient_accumulation_steps)

    @property
    def rollout(self) -> int:
        """Sequences per rollout."""
        return self.minibatch * self.num_mini_batches
