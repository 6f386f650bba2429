"""Arguments of the PPO trainer."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import TrainingArguments


@dataclass
class PPOConfig(TrainingArguments):  # type: ignore[misc]
    """Arguments of ``PPOTrainer``, named as TRL's were where those exist.

    ``per_device_train_batch_size`` times ``gradient_accumulation_steps`` sequences are a minibatch,
    one optimizer step; ``max_steps`` counts these. A rollout is ``num_mini_batches`` minibatches,
    gone over ``num_ppo_epochs`` times. ``num_train_epochs`` are passes over the prompts.

    Attributes:
        learning_rate: of policy and critic.
        critic_learning_rate: of the critic, where it is another.
        num_ppo_epochs: times each rollout is learned from.
        num_mini_batches: minibatches a rollout.
        kl_coef: reward lost per nat of divergence from the reference; 0 does without a reference.
        kl_estimator: "k1" or "k3", see :func:`aligntune.worker.ppo.objective.kl_penalty`.
        cliprange: how far a token's ratio of probabilities may go from 1.
        cliprange_value: how far a value may go from what it was at the rollout.
        vf_coef: weight of the value loss.
        gamma: discount a token.
        lam: of generalized advantage estimation.
        whiten_rewards: bring rewards to variance 1 over a rollout's tokens, their mean kept.
        whiten_advantages: bring advantages to mean 0 and variance 1 over a rollout's tokens.
        missing_eos_penalty: taken off the score of a completion that came to no end.
        target_kl: of the policy from the one that sampled, nats a token: once a minibatch is
            beyond it, the rest of the rollout is left out and the next one begins.
        reward_weights: one a reward function, 1 each if not given.
        max_completion_length: tokens.
        temperature: of sampling; log-probabilities are of the distribution at this temperature.
        top_p, top_k: of sampling. They cut the distribution that is sampled, not the one that
            log-probabilities are of, as in TRL's GRPO; off by default.
        generation_batch_size: completions sampled at once.
        critic: "head", one linear layer on the policy's last hidden states, which learn from it
            too; or "model", a second model with such a head.
        disable_dropout: in policy, reference and critic.
        num_eval_samples: completions of an evaluation that are kept to be looked at.
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
        """Sequences an optimizer step."""
        return int(self.per_device_train_batch_size * self.gradient_accumulation_steps)

    @property
    def rollout(self) -> int:
        """Sequences a rollout."""
        return self.minibatch * self.num_mini_batches
