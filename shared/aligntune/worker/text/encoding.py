"""Token ids of prompts, answers and conversations, the same in training, evaluation and prediction.

A prompt is encoded as the model is asked with it. A row that is learned is encoded as a whole, and
its answer starts where the tokens of the prompt and of the whole differ, as in TRL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from aligntune.spec.run_spec import RunSpec
from aligntune.worker.text.rendering import (
    Conversation,
    Renderer,
    conversation,
    make_renderer,
    places,
)

EXAMPLE = 40
"""Characters of an example in a note."""

Row = Mapping[str, Any]

Encoding = Callable[[Row], list[int]]
"""The tokens of a row's prompt."""


@dataclass(frozen=True)
class Encoder:
    """Token ids of prompts and answers, as text or as conversations.

    ``renderer`` renders conversations, with its tokenizer's chat template.
    """

    renderer: Renderer

    @property
    def tokenizer(self) -> Any:
        return self.renderer.tokenizer

    @property
    def marks(self) -> bool:
        """Whether the renderer's template was chosen because it marks the assistant's turns."""
        return self.renderer.template is not None

    @classmethod
    def of(cls, tokenizer: Any, spec: RunSpec) -> Encoder:
        """The encoder of a run."""
        return cls(make_renderer(tokenizer, spec))

    @classmethod
    def plain(cls, tokenizer: Any) -> Encoder:
        """An encoder without a run's arguments of the chat template."""
        return cls(Renderer(tokenizer))

    def prompt(self, row: Row) -> list[int]:
        """The tokens to generate a completion from: the text, or the chat up to the answer."""
        if isinstance(row["prompt"], str):
            return self.text(row["prompt"])
        return self.chat(conversation(row, "prompt", asks=True))

    def answered(self, row: Row, answer: str) -> list[int]:
        """The tokens of a prompt with the answer in a column, and the end of the sequence."""
        if isinstance(row["prompt"], str):
            return self.text(row["prompt"] + row[answer], ends=True)
        return self.chat(conversation(row, "prompt", answer))

    def chat(self, chat: Conversation) -> list[int]:
        """The tokens of a rendered conversation."""
        return list(self._tokens(self.renderer.render(chat).text)["input_ids"])

    def masked(self, chat: Conversation) -> tuple[list[int], list[bool]]:
        """The tokens of a conversation, and whether each is in a ``{% generation %}`` block."""
        rendering = self.renderer.render(chat, mask=True)
        encoding = self._tokens(rendering.text)
        learned = [False] * len(encoding["input_ids"])
        spans = rendering.generated
        answers = [turn for turn in chat.messages if turn["role"] == "assistant"]
        if len(answers) == len(spans):
            pairs = zip(answers, spans, strict=True)
            spans = tuple(span for turn, span in pairs if turn.get("learned", True))
        for start, end in spans:
            _set(learned, encoding, start, end, True)
        if len(answers) != len(rendering.generated):
            self._forget(chat, rendering.text, encoding, learned)
        return encoding["input_ids"], learned

    def whole(self, chat: Conversation) -> tuple[list[int], list[bool]]:
        """The tokens of a conversation, and whether each is learned: all, unless a message says
        that it is not.
        """
        text = self.renderer.render(chat).text
        encoding = self._tokens(text)
        learned = [True] * len(encoding["input_ids"])
        self._forget(chat, text, encoding, learned)
        return encoding["input_ids"], learned

    def text(self, text: str, ends: bool = False) -> list[int]:
        """The tokens of a text; ``ends`` adds the end-of-sequence token.

        Tokenizers that add a token at the start or end themselves do not add it twice, and add no
        end to a prompt.
        """
        tokenizer = self.tokenizer
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        closed = bool(tokenizer.eos_token) and text.endswith(tokenizer.eos_token)
        if ends and not closed:
            text += tokenizer.eos_token
        tokens = list(tokenizer(text)["input_ids"])
        begins = begin is not None and text.startswith(tokenizer.bos_token)
        if begins and tokens[:2] == [begin, begin]:
            del tokens[0]
        own = 1 if ends or closed else 0  # ends that the text itself has
        if end is not None and tokens[-1 - own :] == [end] * (1 + own):
            del tokens[-1]
        return tokens

    def _tokens(self, text: str) -> Any:
        """A rendered text has all special tokens already."""
        return self.tokenizer(text, add_special_tokens=False)

    def _forget(self, chat: Conversation, text: str, encoding: Any, learned: list[bool]) -> None:
        """Unmark the messages that say that they are not learned."""
        if all(turn.get("learned", True) for turn in chat.messages):
            return
        for turn, (start, end) in zip(chat.messages, places(chat, text), strict=True):
            if not turn.get("learned", True):
                _set(learned, encoding, start, end, False)


def _set(learned: list[bool], encoding: Any, start: int, end: int, value: bool) -> None:
    """Mark the tokens from one character to another, as transformers marks generation blocks."""
    if start >= end:
        return
    first, last = encoding.char_to_token(start), encoding.char_to_token(end - 1)
    if first is None:
        return
    for place in range(first, last + 1 if last else len(learned)):
        learned[place] = value


@dataclass
class Starts:
    """Finds where answers start, and counts prompts that are not asked as they are trained."""

    tokenizer: Any
    count: int = 0
    example: str = ""

    def find(self, prompt: list[int], *rows: list[int]) -> int:
        """The number of tokens that a prompt and whole rows share at the start."""
        start = min(shared(prompt, row) for row in rows)
        if start < len(prompt):
            self.count += 1
            if not self.example:
                asked, trained = (
                    self.tokenizer.decode(tokens[start:])[:EXAMPLE] for tokens in (prompt, rows[0])
                )
                self.example = f"asked with {asked!r}, trained with {trained!r}"
        return start

    def notes(self) -> tuple[str, ...]:
        """How many prompts differ, with an example."""
        if not self.count:
            return ()
        return (f"{self.count} prompts are not asked as they are trained ({self.example})",)


def shared(first: list[int], second: list[int]) -> int:
    """The number of tokens that two sequences share at the start."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
