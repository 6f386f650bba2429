"""A toy for PPO, where torch is: a tiny Llama learns to say one word.

A token is a numbered word: "w07" is token 7. The reward is the fraction of ``CHOSEN``.
"""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import random_model
from transformers import TrainerCallback

PAD, END, CHOSEN = 0, 1, 7


def word_tokenizer(words: int, pad: int = PAD, **named: Any) -> Any:
    """A tokenizer of ``words`` words, which are separated by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = {f"w{number:02}": number for number in range(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=f"w{PAD:02}"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=f"w{pad:02}", eos_token=f"w{END:02}", **named
    )


def word_policy(words: int, seed: int, **shape: Any) -> Any:
    """A random Llama of two layers over these words."""
    special = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": None}
    shape = {"vocab_size": words, "num_hidden_layers": 2, **shape}
    return random_model("llama", seed, **special, **shape)


def share(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """The reward: the fraction of the chosen word in each completion."""
    return [tokens.count(CHOSEN) / len(tokens) for tokens in completion_ids]


class Logs(TrainerCallback):  # type: ignore[misc]
    """What was logged; and a stop after a step, as the worker's own callback does it."""

    def __init__(self, stop: int = 0) -> None:
        self.entries: list[dict[str, float]] = []
        self._stop = stop

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.entries.append(dict(logs))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._stop:
            control.should_save = control.should_training_stop = True

    def of(self, name: str) -> list[float]:
        return [entry[name] for entry in self.entries if name in entry]
