"""The one table of algorithms: which trainer, which arguments, which backends, which data.

The CLI's choices, validation, the docs' matrix (``python -m aligntune.algorithms``) and the tests
are made from it. To add an algorithm, add a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Head = Literal["causal", "classifier"]
"""What a model ends in: a language-model head, or one score."""


@dataclass(frozen=True)
class Algorithm:
    """One row of the table.

    Code asks these fields, never the name of an algorithm, a family or a trainer.

    Attributes:
        name: the value of ``--algo``.
        title: its name in prose.
        family: the module of :mod:`aligntune.worker.families` for its kind of rows and loss.
        paper: where the method is described.
        trainer: the trainer's class, in ``module``.
        config: the class of the trainer's arguments, in ``module``.
        formats: the dataset formats it takes, of :data:`FORMATS`.
        sections: optional sections of the spec that apply to it.
        keys: keys of :data:`RESTRICTED` that apply to it.
        implies: trainer arguments that define it, and that users may not set.
        defaults: dotted keys of the spec, with this algorithm's own default.
        backends: the backends it runs on, best first.
        module: where ``trainer`` and ``config`` are.
        head: what the model ends in.
        online: whether it samples completions while training, which rewards score.
        grouped: whether it compares completions of the same prompt, so that batches hold groups.
        pairs: whether each row holds two answers, which are computed together.
        reference: whether training or evaluation compares with a frozen reference model.
        critic: whether it trains an estimate of values beside the policy.
        least_batch_size: the smallest ``training.batch_size`` that it can learn from.
        learns: what it learns, in words that follow "learns".
        smoothed: the losses that use ``preference.label_smoothing``, and whether they need it.
    """

    name: str
    title: str
    family: str
    paper: str
    trainer: str
    config: str
    formats: tuple[str, ...]
    sections: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    implies: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    backends: tuple[str, ...] = ("unsloth", "trl")
    module: str = "trl"
    head: Head = "causal"
    online: bool = False
    grouped: bool = False
    pairs: bool = False
    reference: bool = False
    critic: bool = False
    least_batch_size: int = 1
    learns: str = "sampled completions, by their reward"
    smoothed: Mapping[str, bool] = field(default_factory=dict)


BACKENDS = ("unsloth", "trl")
"""All backends, the fastest first. ``auto`` tries them in this order."""

TITLES = {"trl": "TRL", "unsloth": "Unsloth"}
"""The name of each backend in prose."""


OF_CHATS = ("system", "tools", "chat_template_args")

FORMATS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "prompt_completion": ("prompt", "completion", *OF_CHATS),
    "chat": ("messages", "conversations", *OF_CHATS),
    "instruction": (
        *("instruction", "input", "output", "context", "response", "history"),
        *OF_CHATS,
    ),
    "preference": ("prompt", "chosen", "rejected", *OF_CHATS),
    "unpaired": ("prompt", "completion", "label", *OF_CHATS),
    "prompt": ("prompt", *OF_CHATS),
}
"""Dataset formats, with the columns that their rows can have; aligntune.data.formats reads them."""

OFFLINE: dict[str, Any] = {"training.schedule": "cosine", "training.warmup": 0.03}
"""For trainers that learn from given rows; docs/defaults.md has the sources."""

PREFERENCES: dict[str, Any] = {**OFFLINE, "training.epochs": 1.0}
"""A second pass over preferences mostly overfits."""

ONLINE: dict[str, Any] = {"training.max_length": None, "training.gradient_accumulation": 1}
"""The keys of ``rl`` limit prompts and completions instead, and a group fills a step."""

PACKING = tuple(
    f"training.{name}" for name in ("packing", "completion_only_loss", "assistant_only_loss")
)
"""Keys for trainers that learn the tokens of whole rows."""


def _grpo(name: str, title: str, paper: str, implies: Mapping[str, Any], **more: Any) -> Algorithm:
    """A row of the GRPO family, whose members differ in a few arguments of one trainer."""
    own = {"training.learning_rate": 1e-6, "rl.beta": 0.0, **ONLINE, **more.pop("defaults", {})}
    return Algorithm(
        name=name,
        title=title,
        family="online",
        paper=paper,
        trainer="GRPOTrainer",
        config="GRPOConfig",
        formats=("prompt",),
        sections=("rl", "rewards"),
        keys=("rl.num_generations", "rl.epsilon_high"),
        implies={"importance_sampling_level": "token", **implies},
        defaults=own,
        online=True,
        grouped=True,
        reference=True,
        **more,
    )


ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        Algorithm(
            name="sft",
            title="Supervised fine-tuning",
            family="supervised",
            paper="https://arxiv.org/abs/2203.02155",
            trainer="SFTTrainer",
            config="SFTConfig",
            formats=("text", "prompt_completion", "chat", "instruction"),
            keys=PACKING,
            learns="completions, assistant turns if the chat template marks them, or whole texts",
            defaults={"training.learning_rate": 2e-5, **OFFLINE},
        ),
        Algorithm(
            name="dpo",
            title="Direct Preference Optimization",
            family="preference",
            paper="https://arxiv.org/abs/2305.18290",
            trainer="DPOTrainer",
            config="DPOConfig",
            formats=("preference",),
            sections=("preference",),
            keys=("preference.label_smoothing",),
            # In TRL 1.15 and 1.16; its sigmoid loss has no smoothing.
            smoothed={"robust": False, "exo_pair": True, "aot": False, "aot_unpaired": False},
            defaults={
                "training.learning_rate": 1e-6,
                "preference.loss_type": "sigmoid",
                **PREFERENCES,
            },
            pairs=True,
            reference=True,
            learns="chosen answers over rejected ones",
        ),
        Algorithm(
            name="ppo",
            title="Proximal Policy Optimization",
            family="online",
            paper="https://arxiv.org/abs/1707.06347",
            trainer="PPOTrainer",
            config="PPOConfig",
            formats=("prompt",),
            sections=("rl", "ppo", "rewards"),
            defaults={
                "training.learning_rate": 3e-6,
                "rl.beta": 0.05,
                "rl.num_iterations": 4,
                **ONLINE,
            },
            module="aligntune.worker.ppo.trainer",
            online=True,
            reference=True,
            critic=True,
        ),
        _grpo(
            "grpo",
            "Group Relative Policy Optimization",
            "https://arxiv.org/abs/2402.03300",
            {"loss_type": "grpo"},
        ),
        _grpo(
            "dapo",
            "DAPO",
            "https://arxiv.org/abs/2503.14476",
            {"loss_type": "dapo", "mask_truncated_completions": True},
            defaults={"rl.epsilon_high": 0.28},
        ),
        _grpo(
            "dr_grpo",
            "Dr. GRPO",
            "https://arxiv.org/abs/2503.20783",
            {"loss_type": "dr_grpo", "scale_rewards": "none"},
        ),
        _grpo(
            "gspo",
            "Group Sequence Policy Optimization",
            "https://arxiv.org/abs/2507.18071",
            {"loss_type": "grpo", "importance_sampling_level": "sequence"},
            backends=("trl",),
        ),
        Algorithm(
            name="rloo",
            title="REINFORCE Leave-One-Out",
            family="online",
            paper="https://arxiv.org/abs/2402.14740",
            trainer="RLOOTrainer",
            config="RLOOConfig",
            formats=("prompt",),
            sections=("rl", "rewards"),
            keys=("rl.num_generations",),
            defaults={"training.learning_rate": 1e-6, "rl.beta": 0.05, **ONLINE},
            online=True,
            grouped=True,
            reference=True,
        ),
        Algorithm(
            name="kto",
            title="Kahneman-Tversky Optimization",
            family="feedback",
            paper="https://arxiv.org/abs/2402.01306",
            trainer="KTOTrainer",
            config="KTOConfig",
            formats=("unpaired",),
            sections=("preference",),
            defaults={
                "training.learning_rate": 1e-6,
                "preference.loss_type": "kto",
                **PREFERENCES,
            },
            reference=True,
            least_batch_size=2,  # it pairs the rows of a batch
            learns="answers, towards good ones and away from bad ones",
        ),
        Algorithm(
            name="reward",
            title="Reward model",
            family="reward_model",
            paper="https://arxiv.org/abs/2203.02155",
            trainer="RewardTrainer",
            config="RewardConfig",
            formats=("preference",),
            defaults={"training.learning_rate": 1e-5, **PREFERENCES},
            backends=("trl",),
            head="classifier",
            pairs=True,
            learns="to score chosen answers above rejected ones",
        ),
    )
}

RESTRICTED = tuple(dict.fromkeys(key for row in ALGORITHMS.values() for key in row.keys))
"""Keys that apply only to some of the algorithms that have their section."""


def takers(format_name: str) -> str:
    """The algorithms that take a dataset format, by ``--algo`` name: ``dpo or reward``."""
    return " or ".join(row.name for row in ALGORITHMS.values() if format_name in row.formats)


def matrix() -> str:
    """What runs where, as a Markdown table."""
    titles = " | ".join(TITLES[name] for name in sorted(BACKENDS))
    lines = [
        f"| algorithm | `--algo` | {titles} | data |",
        f"| --- | --- |{' --- |' * len(BACKENDS)} --- |",
    ]
    for row in ALGORITHMS.values():
        cells = ("Yes" if name in row.backends else "No" for name in sorted(BACKENDS))
        data = ", ".join(name.replace("_", "-") for name in row.formats)
        lines.append(
            f"| [{row.title}]({row.paper}) | `{row.name}` | {' | '.join(cells)} | {data} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(matrix())
