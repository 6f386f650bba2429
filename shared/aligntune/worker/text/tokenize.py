"""From canonical rows to token ids and labels, the same on every backend.

The trainers receive ``input_ids`` and ``labels`` (-100 for tokens that are not learned), so they
prepare no data themselves. The conventions are TRL's: plain text and completions end with the
end-of-sequence token, and a completion starts where the tokens of the prompt and of prompt plus
completion differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from aligntune.errors import DataError, ModelError
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.text.assistant_turns import marking_notes, training_renderer
from aligntune.worker.text.encoding import Encoder, Starts
from aligntune.worker.text.rendering import conversation

IGNORED = -100
"""Label of a token that is not learned, as in torch's cross entropy."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Tokenized:
    """Rows as token ids.

    Attributes:
        notes: about rows that were cut or skipped, and about what is learned.
        learns: which tokens are learned, in words; empty if the algorithm alone says it.
    """

    dataset: Any
    notes: tuple[str, ...] = ()
    learns: str = ""


def notes(*counted: tuple[int, str]) -> tuple[str, ...]:
    """Notes such as ``3 rows are cut`` from ``(3, "rows are cut")``; none for a count of 0."""
    return tuple(f"{count} {what}" for count, what in counted if count)


ENDLESS = (
    "rows have no learned token that ends generation, so the model may not learn to stop; end the "
    "assistant's turn with {{ eos_token }} in the chat template (inside {% generation %}, if that "
    "is there), or set model.eos_token to the token that ends the turn"
)


ASKED = 4
"""Conversations that are compared with how the model is asked for their last message."""


def tokenize(
    dataset: Any, tokenizer: Any, spec: RunSpec, limit: int | None, ends: Collection[int]
) -> Tokenized:
    """Encode canonical rows.

    Args:
        dataset: canonical rows, see :mod:`aligntune.data.rows`.
        tokenizer: of the model.
        spec: the request, for what is learned.
        limit: rows are cut to this many tokens; None keeps them whole.
        ends: tokens that end generation.

    Raises:
        ModelError: chat data without a chat template, or one that cannot render a row.
        DataError: no row has a token to learn, or the requested loss does not fit the data.
    """
    starts = Starts(tokenizer)
    own = Encoder.of(tokenizer, spec)
    trained = Encoder(training_renderer(dataset[0], tokenizer, spec))
    encode = _encoder(dataset.column_names, is_chat(dataset), spec, own, trained, starts)

    def encode_row(row: Row) -> Row:
        tokens, learned = encode(row)
        labels = [token if keep else IGNORED for token, keep in zip(tokens, learned, strict=True)]
        full = len(tokens)
        return {
            "input_ids": tokens[:limit],
            "labels": labels[:limit],
            "length": min(full, limit or full),
            "cut": limit is not None and full > limit,
            "endless": not any(label in ends for label in labels),
        }

    if "messages" in dataset.column_names:
        _ask_first_rows(dataset, own, encode, starts)
    encoded = dataset.map(encode_row, remove_columns=dataset.column_names, keep_in_memory=True)
    # The first token is never predicted, so only later labels count.
    useful = encoded.filter(
        lambda row: any(label != IGNORED for label in row["labels"][1:]), keep_in_memory=True
    )
    if len(useful) == 0:
        raise DataError(
            "no row has a token to learn" + (f" within {limit} tokens" if limit else ""),
            "Raise training.max_length up to the model's limit, or change what is learned"
            + (": training.assistant_only_loss=false learns every token" if trained.marks else ""),
        )
    return Tokenized(
        dataset=useful.select_columns(["input_ids", "labels", "length"]),
        notes=starts.notes()
        + notes(
            (sum(useful["endless"]), ENDLESS),
            (sum(encoded["cut"]), f"rows are longer than {limit} tokens and were cut"),
            (
                len(encoded) - len(useful),
                "rows have no token left to learn and were skipped",
            ),
        )
        + marking_notes(dataset, spec, own, trained),
        learns=_learns(dataset.column_names, spec, trained.marks),
    )


def _learns(columns: list[str], spec: RunSpec, marks: bool) -> str:
    if "prompt" in columns:
        whole = spec.training.completion_only_loss is False
        return "prompts and completions" if whole else "completions only"
    return "assistant turns only" if marks else "every token"


def _encoder(
    columns: list[str],
    conversational: bool,
    spec: RunSpec,
    own: Encoder,
    trained: Encoder,
    starts: Starts,
) -> Callable[[Row], tuple[list[int], list[bool]]]:
    """A function that encodes a row: token ids, and whether each is learned."""
    training = spec.training
    chat = conversational or "messages" in columns
    if training.assistant_only_loss and not chat:
        raise DataError("training.assistant_only_loss needs chat data", "Remove it")
    if training.completion_only_loss and "prompt" not in columns:
        raise DataError("training.completion_only_loss needs prompt-completion data", "Remove it")
    require_usable(own.tokenizer, spec, chat)
    encode_chat = trained.masked if trained.marks else trained.whole
    texts = ["prompt", "completion"] if "prompt" in columns else ["messages"]

    def encode(row: Row) -> tuple[list[int], list[bool]]:
        if chat:
            tokens, learned = encode_chat(conversation(row, *texts))
        else:
            tokens = (
                own.answered(row, "completion")
                if "prompt" in row
                else own.text(row["text"], ends=True)
            )
            learned = [True] * len(tokens)
        if "prompt" in row and training.completion_only_loss is not False:
            start = starts.find(own.prompt(row), tokens)
            learned = [keep and place >= start for place, keep in enumerate(learned)]
        return tokens, learned

    return encode


def _ask_first_rows(
    dataset: Any,
    own: Encoder,
    encode: Callable[[Row], tuple[list[int], list[bool]]],
    starts: Starts,
) -> None:
    """Compare a few conversations with how the model is asked for their last message."""
    for row in dataset.select(range(min(ASKED, len(dataset)))):
        *before, last = row["messages"]
        if before and last["role"] == "assistant":
            try:
                prompt = own.prompt({**row, "prompt": before})
            except ModelError:
                continue  # a template that cannot ask here can still be trained with
            starts.find(prompt, encode(row)[0])


def is_chat(dataset: Any) -> bool:
    """Whether rows contain messages and not text."""
    return isinstance(dataset[0].get("prompt"), list)


def require_usable(tokenizer: Any, spec: RunSpec, chat: bool) -> None:
    """Refuse a tokenizer that cannot render the data, or has no end-of-sequence token.

    Raises:
        ModelError: it has no chat template for chat data, or no end-of-sequence token.
        DataError: model.chat_template is set, but the data is text.
    """
    if spec.model.chat_template and not chat:
        raise DataError("model.chat_template needs chat data, but the data is text", "Remove it")
    if chat and tokenizer.chat_template is None:
        raise ModelError(
            f"the tokenizer of {spec.model.name} has no chat template, but the data is chat",
            "Set model.chat_template to a Jinja file, or use an instruct model",
        )
    if not chat and tokenizer.eos_token is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so the model could not learn to stop",
            "Set eos_token in its tokenizer_config.json",
        )
