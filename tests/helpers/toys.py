"""Toys whose answer is known, one for each family of algorithms, and a model that learns them.

The model's whole vocabulary is fourteen letters, padding and the end. The toys:

- supervised: letters go on in the order of the alphabet, up to the last; a model that knows it has
  a loss of 0 on rows it has not seen, a random one of ln 16 = 2.77.
- preference, feedback, reward model: answers of the letters a to g are good, those of h to n bad.
- online: the reward is the share of good letters; half of what a random model says.

Run inside an image, this makes the model: ``python toys.py FOLDER [wide]``. A wide one has rows of
64 weights, as the 4-bit kernels of a GPU want.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligntune.algorithms import ALGORITHMS

LETTERS = "abcdefghijklmn"
GOOD, BAD = LETTERS[:7], LETTERS[7:]
HELD_OUT = 32

REWARD = f'''
def good(completions):
    """The share of good letters."""
    return [sum(map(text.count, "{GOOD}")) / max(len(text.split()), 1) for text in completions]
'''

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Toy:
    """What a family learns, and how it is known that it did.

    Attributes:
        data: rows to train on, and rows held out, by their name in :func:`rows`.
        training: keys of ``training`` that let it learn within seconds.
        sections: further sections of the spec.
        figure: of the run's own evaluation of held-out rows.
        reaches: what the figure comes to where it was learned.
        low: whether less of it is better.
        adapter_rate: times the learning rate that an adapter needs.
    """

    data: str
    figure: str
    reaches: float
    training: Mapping[str, Any]
    sections: Mapping[str, Any] = field(default_factory=dict)
    low: bool = False
    adapter_rate: float = 2

    def learned(self, result: Mapping[str, Any]) -> bool:
        """Whether a run's result shows that it learned."""
        found = float(result[f"eval_{self.figure}"])
        return found <= self.reaches if self.low else found >= self.reaches


FAST = {
    "batch_size": 8,
    "gradient_accumulation": 1,
    "schedule": "linear",
    "warmup": 0,
    "logging_steps": 10,
    "precision": "fp32",
}
SAMPLED = {"rl": {"max_completion_length": 16, "beta": 0.01}}

TOYS = {
    "supervised": Toy(
        "alphabet", "loss", 0.7, {**FAST, "max_steps": 40, "learning_rate": 1e-2}, low=True
    ),
    "preference": Toy("pairs", "accuracy", 0.95, {**FAST, "max_steps": 20, "learning_rate": 3e-3}),
    "feedback": Toy("answers", "margin", 0.5, {**FAST, "max_steps": 30, "learning_rate": 3e-3}),
    "reward_model": Toy(
        "pairs", "accuracy", 0.95, {**FAST, "max_steps": 30, "learning_rate": 3e-3}
    ),
    "online": Toy(
        "prompts",
        "reward",
        0.75,
        {**FAST, "batch_size": 16, "max_steps": 40, "learning_rate": 1e-2},
        SAMPLED,
    ),
}
"""By family."""

OWN: dict[str, dict[str, Any]] = {
    # Four passes over each rollout, so it takes more steps to see as many completions.
    "ppo": {"max_steps": 160, "learning_rate": 3e-3},
}
"""Keys of ``training`` by algorithm."""


def spec_of(algorithm: str, adapter: bool, **training: Any) -> dict[str, Any]:
    """The spec of an algorithm's toy, but for the model and where data and reward are."""
    toy = TOYS[ALGORITHMS[algorithm].family]
    values = {**toy.training, **OWN.get(algorithm, {})}
    if adapter:
        values["learning_rate"] *= toy.adapter_rate
    return {
        "algorithm": algorithm,
        "training": {**values, **training},
        **({"adapter": {"rank": 8}} if adapter else {}),
        **{name: dict(section) for name, section in toy.sections.items()},
    }


def rows(name: str) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out, the same each time."""
    chance = random.Random(0)

    def some(letters: str) -> str:
        return " ".join(chance.choices(letters, k=chance.randint(2, 6)))

    made: Rows
    if name == "alphabet":
        made = [
            {
                "prompt": " ".join(LETTERS[start:end]),
                "completion": " " + " ".join(LETTERS[end:]),
            }
            for end in range(1, len(LETTERS))
            for start in range(end)
        ]
        chance.shuffle(made)
    elif name == "pairs":
        made = [
            {"prompt": some(LETTERS), "chosen": f" {some(GOOD)}", "rejected": f" {some(BAD)}"}
            for _ in range(128)
        ]
    elif name == "answers":
        made = [
            {
                "prompt": some(LETTERS),
                "completion": f" {some(GOOD if good else BAD)}",
                "label": good,
            }
            for good in [True, False] * 64
        ]
    else:
        made = [{"prompt": some(LETTERS)} for _ in range(96)]
    return made[HELD_OUT:], made[:HELD_OUT]


def main() -> None:
    from tiny import END, make_model  # type: ignore[import-not-found]  # beside this file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad = "<|pad|>"
    words = {word: n for n, word in enumerate([pad, END, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=pad))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=pad, model_max_length=64
    )
    size = 2 if sys.argv[2:] == ["wide"] else 1
    shape = {"hidden_size": 32 * size, "intermediate_size": 64 * size, "head_dim": 8 * size}
    make_model(
        Path(sys.argv[1]),
        "llama",
        fast,
        vocab_size=len(words),
        max_position_embeddings=64,
        initializer_range=0.2,
        **shape,
    )


if __name__ == "__main__":
    main()
