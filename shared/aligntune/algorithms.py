"""The one table of algorithms: which trainer, which backends, which data.

The CLI's choices, validation, the docs' matrix and the tests are made from it; adding an algorithm
means adding a row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Algorithm:
    """One row of the table.

    Attributes:
        name: what the user writes after ``--algo``.
        title: its name in prose.
        paper: where the method is described.
        trainer: class name in ``trl``; its configuration class is ``config``.
        config: class name in ``trl`` of the trainer's arguments.
        backends: the backends it runs on, best first.
        formats: the dataset formats it takes.
    """

    name: str
    title: str
    paper: str
    trainer: str
    config: str
    backends: tuple[str, ...]
    formats: tuple[str, ...]


BACKENDS = ("unsloth", "trl")
"""All backends, the faster first: the order in which ``auto`` tries them."""

ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        Algorithm(
            name="sft",
            title="Supervised fine-tuning",
            paper="https://arxiv.org/abs/2203.02155",
            trainer="SFTTrainer",
            config="SFTConfig",
            backends=("unsloth", "trl"),
            formats=("text", "prompt_completion", "chat", "instruction"),
        ),
    )
}
