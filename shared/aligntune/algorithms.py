"""The one table of algorithms: which trainer, which arguments, which backends, which data.

The CLI's choices, validation, the docs' matrix (``python -m aligntune.algorithms``) and the tests
are made from it; adding an algorithm means adding a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal["supervised", "preference", "feedback", "reward_model", "online"]
"""What rows and losses look like; :mod:`aligntune.worker.families` has a module for each."""

Need = Literal["reference", "rewards", "value_head"]
"""What training needs beside the model: a frozen reference, rewards, an estimate of values."""


@dataclass(frozen=True)
class Algorithm:
    """One row of the table.

    Attributes:
        name: what the user writes after ``--algo``.
        title: its name in prose.
        family: which kind of data and objective it has.
        paper: where the method is described.
        trainer: the trainer's class, in ``module``.
        config: the class of the trainer's arguments, in ``module``.
        formats: the dataset formats it takes.
        sections: keys of the spec, beside the general ones, that mean something to it.
        implies: trainer arguments that make it this algorithm, and so are nobody's to set.
        defaults: dotted keys of the spec whose default is this algorithm's own.
        needs: what it needs beside a model and data.
        backends: the backends it runs on, best first.
    """

    name: str
    title: str
    family: Family
    paper: str
    trainer: str
    config: str
    formats: tuple[str, ...]
    sections: tuple[str, ...] = ()
    implies: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    backends: tuple[str, ...] = ("unsloth", "trl")
    module: str = "trl"


BACKENDS = ("unsloth", "trl")
"""All backends, the faster first: the order in which ``auto`` tries them."""

TITLES = {"trl": "TRL", "unsloth": "Unsloth"}
"""What a backend is called in prose."""


ONLINE: dict[str, Any] = {"training.max_length": None}
"""Prompts and completions have lengths of their own, see ``rl``."""


def _grpo(name: str, title: str, paper: str, implies: Mapping[str, Any], **more: Any) -> Algorithm:
    """A row of the GRPO family, which differ in a few arguments of one trainer."""
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
        implies={"importance_sampling_level": "token", **implies},
        defaults=own,
        needs=("rewards",),
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
            # TRL's default.
            defaults={"training.learning_rate": 2e-5},
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
            defaults={"training.learning_rate": 1e-6, "preference.loss_type": "sigmoid"},
            needs=("reference",),
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
            needs=("reference", "rewards", "value_head"),
            module="aligntune.worker.ppo.trainer",
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
            defaults={"training.learning_rate": 1e-6, "rl.beta": 0.05, **ONLINE},
            needs=("reference", "rewards"),
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
            defaults={"training.learning_rate": 1e-6, "preference.loss_type": "kto"},
            needs=("reference",),
        ),
        Algorithm(
            name="reward",
            title="Reward model",
            family="reward_model",
            paper="https://arxiv.org/abs/2203.02155",
            trainer="RewardTrainer",
            config="RewardConfig",
            formats=("preference",),
            defaults={"training.learning_rate": 1e-5},
            backends=("trl",),
        ),
    )
}


def takers(format_name: str) -> str:
    """The algorithms that take a dataset format, as the user writes them: ``dpo or reward``."""
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
        data = ", ".join(one.replace("_", "-") for one in row.formats)
        lines.append(
            f"| [{row.title}]({row.paper}) | `{row.name}` | {' | '.join(cells)} | {data} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(matrix())
