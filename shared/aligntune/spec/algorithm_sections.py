"""The sections of a RunSpec that apply to some algorithms only: meaning, default and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from aligntune.spec.flags import BETA, REWARDS, Flag
from aligntune.spec.sections import (
    Keyword,
    PositiveInt,
    Section,
    is_local,
    require_recordable,
    sets,
)


class PreferenceSpec(Section):
    """Learning from preferences: DPO (https://arxiv.org/abs/2305.18290) and KTO.

    Attributes:
        beta: how strongly the policy stays close to the reference.
        loss_type: TRL's name of the loss, such as ``sigmoid``, ``ipo`` or ``hinge`` for DPO; null
            is the algorithm's default.
        label_smoothing: the assumed fraction of pairs with swapped labels, in [0, 0.5); used by
            DPO's losses ``robust``, ``exo_pair`` and ``aot``.
    """

    beta: Annotated[
        float,
        sets("beta"),
        BETA,
        Keyword("beta"),
        Keyword("kl_coef"),
    ] = Field(default=0.1, gt=0)
    loss_type: Annotated[str | None, sets("loss_type")] = None
    label_smoothing: Annotated[float, sets("label_smoothing")] = Field(default=0.0, ge=0, lt=0.5)


class RLSpec(Section):
    """Learning from rewards of the policy's own completions.

    Attributes:
        num_generations: completions per prompt (the group of GRPO and RLOO);
            ``training.batch_size`` times ``gradient_accumulation`` must be a multiple of it.
        max_prompt_length: longer prompts are skipped and counted, in tokens; null keeps all.
        max_completion_length: completions are cut at this many tokens.
        temperature: sampling temperature.
        top_p: sample from the most likely tokens whose total probability is this.
        top_k: sample from this many most likely tokens; 0 means all.
        beta: coefficient of the KL penalty; the default depends on the algorithm (0 in the GRPO
            family, 0.05 in PPO and RLOO).
        epsilon: the importance ratio is clipped to [1 - epsilon, 1 + epsilon].
        epsilon_high: a different upper bound (DAPO: 0.28).
        num_iterations: passes over each batch of completions (PPO: 4 epochs, else 1).
    """

    num_generations: Annotated[
        PositiveInt,
        sets("num_generations"),
        Flag("--num-generations", "Completions per prompt (GRPO family, RLOO).", REWARDS),
        Keyword("num_generations"),
    ] = 8
    max_prompt_length: Annotated[
        PositiveInt | None, sets("max_prompt_length"), Keyword("max_prompt_length")
    ] = 512
    max_completion_length: Annotated[
        PositiveInt,
        sets("max_completion_length"),
        Flag("--max-completion-length", "Maximum tokens per completion.", REWARDS),
        Keyword("max_completion_length"),
    ] = 256
    temperature: Annotated[
        float,
        sets("temperature"),
        Flag("--temperature", "Sampling temperature of completions.", REWARDS),
        Keyword("temperature"),
    ] = Field(default=1.0, gt=0)
    top_p: Annotated[float, sets("top_p")] = Field(default=1.0, gt=0, le=1)
    top_k: Annotated[int, sets("top_k")] = Field(default=0, ge=0)
    beta: Annotated[
        float,
        sets("beta", "kl_coef"),
        BETA,
        Keyword("beta"),
        Keyword("kl_coef"),
    ] = Field(default=0.0, ge=0)
    epsilon: Annotated[float, sets("epsilon", "cliprange"), Keyword("cliprange")] = Field(
        default=0.2, gt=0
    )
    epsilon_high: Annotated[float | None, sets("epsilon_high")] = Field(default=None, gt=0)
    num_iterations: Annotated[PositiveInt, sets("num_iterations", "num_ppo_epochs")] = 1


class PPOSpec(Section):
    """PPO's settings beside those of :class:`RLSpec` (https://arxiv.org/abs/1707.06347).

    Attributes:
        num_mini_batches: optimizer steps per pass over a rollout; a rollout has this many times
            ``training.batch_size`` times ``gradient_accumulation`` completions.
        gamma: discount per token.
        lam: lambda of generalised advantage estimation (https://arxiv.org/abs/1506.02438).
        vf_coef: weight of the value loss.
        cliprange_value: how far a value may move from the rollout's value before its loss is
            clipped.
        kl_estimator: estimator of the penalty per token, k1 or k3 (http://joschu.net/blog/kl-approx.html).
        whiten_rewards: scale a rollout's rewards to unit variance.
        whiten_advantages: scale a rollout's advantages to mean 0 and variance 1.
        missing_eos_penalty: subtracted from the score of a completion without an end token.
        target_kl: stop the passes over a rollout at this distance of the policy, in nats per token.
        critic: a value ``head`` on the policy's hidden states, with ten times the learning rate, or
            a separate ``model``, which learns better and needs the memory of a second model.
    """

    num_mini_batches: Annotated[PositiveInt, sets("num_mini_batches")] = 1
    gamma: Annotated[float, sets("gamma")] = Field(default=1.0, gt=0, le=1)
    lam: Annotated[float, sets("lam")] = Field(default=0.95, ge=0, le=1)
    vf_coef: Annotated[float, sets("vf_coef")] = Field(default=0.1, ge=0)
    cliprange_value: Annotated[float, sets("cliprange_value")] = Field(default=0.2, gt=0)
    kl_estimator: Annotated[Literal["k1", "k3"], sets("kl_estimator")] = "k1"
    whiten_rewards: Annotated[bool, sets("whiten_rewards")] = False
    whiten_advantages: Annotated[bool, sets("whiten_advantages")] = True
    missing_eos_penalty: Annotated[float | None, sets("missing_eos_penalty")] = Field(
        default=None, ge=0
    )
    target_kl: Annotated[float | None, sets("target_kl")] = Field(default=None, gt=0)
    critic: Annotated[Literal["head", "model"], sets("critic")] = "head"


class RewardSpec(Section):
    """One reward; ``rewards: [exact_match]`` is short for ``rewards: [{name: exact_match}]``.

    Attributes:
        name: a built-in reward (docs/rewards.md), or ``path.py:function`` for your own function.
        model: instead of ``name``, a reward model: a sequence classifier with one label, as a
            folder or hub id.
        revision: branch, tag or commit of a model's hub id.
        weight: factor of the reward in the sum.
        timeout: seconds that one call may take.
        args: keyword arguments of the function, or of scoring by the model.
    """

    name: str | None = None
    model: str | None = None
    revision: str | None = None
    weight: float = 1.0
    timeout: float = Field(default=120.0, gt=0)
    args: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.model is None):
            raise ValueError("a reward needs a name or a model, not both")
        if self.revision is not None and (self.model is None or is_local(self.model)):
            raise ValueError("revision applies only to a reward model's hub id; remove it")
        require_recordable(self.args, "args")
        return self

    @property
    def file(self) -> str | None:
        """The file of a custom function."""
        path, colon, _ = (self.name or "").rpartition(":")
        return path if colon else None
