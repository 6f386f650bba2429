"""From canonical rows to token ids and labels, the same on every backend.

The trainers receive ``input_ids`` and ``labels`` (-100 for tokens that are not learned), so they
prepare no data themselves. The conventions are TRL's: plain text and completions end with the
end-of-sequence token, and a completion starts where the tokens of the prompt and of prompt plus
completion differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from aligntune.errors import DataError, ModelError
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.inputs.assistant_turns import find_marking, marking_notes

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


def tokenize(dataset: Any, tokenizer: Any, spec: RunSpec, limit: int | None) -> Tokenized:
    """Encode canonical rows.

    Args:
        dataset: canonical rows, see :mod:`aligntune.data.rows`.
        tokenizer: of the model.
        spec: the request, for what is learned.
        limit: rows are cut to this many tokens; None keeps them whole.

    Raises:
        ModelError: chat data without a chat template, or one that cannot render a row.
        DataError: no row has a token to learn, or the requested loss does not fit the data.
    """
    marking = find_marking(dataset, tokenizer, spec)
    encode = _encoder(dataset.column_names, is_chat(dataset), tokenizer, spec, marking)

    def encode_row(row: Row) -> Row:
        tokens, learned = encode(row)
        labels = [token if keep else IGNORED for token, keep in zip(tokens, learned, strict=True)]
        full = len(tokens)
        return {
            "input_ids": tokens[:limit],
            "labels": labels[:limit],
            "length": min(full, limit or full),
            "cut": limit is not None and full > limit,
        }

    encoded = dataset.map(encode_row, remove_columns=dataset.column_names, keep_in_memory=True)
    # The first token is never predicted, so only later labels count.
    useful = encoded.filter(
        lambda row: any(label != IGNORED for label in row["labels"][1:]), keep_in_memory=True
    )
    if len(useful) == 0:
        raise DataError(
            "no row has a token to learn" + (f" within {limit} tokens" if limit else ""),
            "Raise training.max_length up to the model's limit, or change what is learned"
            + (": training.assistant_only_loss=false learns every token" if marking else ""),
        )
    return Tokenized(
        dataset=useful.select_columns(["input_ids", "labels", "length"]),
        notes=notes(
            (sum(encoded["cut"]), f"rows are longer than {limit} tokens and were cut"),
            (
                len(encoded) - len(useful),
                "rows have no token left to learn and were skipped",
            ),
        )
        + marking_notes(dataset, tokenizer, spec, marking, _apply),
        learns=_learns(dataset.column_names, spec, marking),
    )


def _learns(columns: list[str], spec: RunSpec, marking: str | None) -> str:
    if "prompt" in columns:
        whole = spec.training.completion_only_loss is False
        return "prompts and completions" if whole else "completions only"
    return "assistant turns only" if marking else "every token"


def _encoder(
    columns: list[str], conversational: bool, tokenizer: Any, spec: RunSpec, marking: str | None
) -> Callable[[Row], tuple[list[int], list[bool]]]:
    """A function that encodes a row: token ids, and whether each is learned."""
    training = spec.training
    chat = conversational or "messages" in columns
    if training.assistant_only_loss and not chat:
        raise DataError("training.assistant_only_loss needs chat data", "Remove it")
    if training.completion_only_loss and "prompt" not in columns:
        raise DataError("training.completion_only_loss needs prompt-completion data", "Remove it")
    require_usable(tokenizer, spec, chat)
    if "prompt" in columns:
        whole = training.completion_only_loss is False
        return _prompt_encoder(tokenizer, chat, whole, marking)
    if chat:
        return _chat_encoder(tokenizer, marking)

    def encode_text(row: Row) -> tuple[list[int], list[bool]]:
        tokens = tokenizer(_ended(row["text"], tokenizer))["input_ids"]
        return tokens, [True] * len(tokens)

    return encode_text


def _prompt_encoder(
    tokenizer: Any, chat: bool, whole: bool, marking: str | None
) -> Callable[[Row], tuple[list[int], list[bool]]]:
    render = _chat_encoder(tokenizer, marking) if chat else None

    def encode(row: Row) -> tuple[list[int], list[bool]]:
        if render is not None:
            tokens, learned = render({"messages": row["prompt"] + row["completion"]})
        else:
            tokens = tokenizer(row["prompt"] + _ended(row["completion"], tokenizer))["input_ids"]
            learned = [True] * len(tokens)
        if not whole:
            start = shared(encode_prompt(tokenizer, row["prompt"]), tokens)
            learned = [keep and place >= start for place, keep in enumerate(learned)]
        return tokens, learned

    return encode


def encode_prompt(tokenizer: Any, prompt: str | list[dict[str, str]]) -> list[int]:
    """The tokens to generate a completion from: the text, or the chat up to the answer."""
    if isinstance(prompt, str):
        tokens = tokenizer(prompt)["input_ids"]
    else:
        tokens = _apply(tokenizer, prompt, add_generation_prompt=True)["input_ids"]
    return list(tokens)


def encode_answered(tokenizer: Any, prompt: Any, completion: Any) -> list[int]:
    """The tokens of a prompt with its completion and the end-of-sequence token."""
    if isinstance(prompt, str):
        tokens = tokenizer(prompt + _ended(completion, tokenizer))["input_ids"]
    else:
        tokens = _apply(tokenizer, prompt + completion)["input_ids"]
    return list(tokens)


def shared(first: list[int], second: list[int]) -> int:
    """The number of tokens that two sequences share at the start."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def is_chat(dataset: Any) -> bool:
    """Whether rows contain messages and not text."""
    return isinstance(dataset[0].get("prompt"), list)


def _chat_encoder(
    tokenizer: Any, marking: str | None
) -> Callable[[Row], tuple[list[int], list[bool]]]:
    def encode(row: Row) -> tuple[list[int], list[bool]]:
        if marking is None:
            tokens = _apply(tokenizer, row["messages"])["input_ids"]
            return tokens, [True] * len(tokens)
        rendered = _apply(
            tokenizer, row["messages"], return_assistant_tokens_mask=True, chat_template=marking
        )
        return rendered["input_ids"], [bool(bit) for bit in rendered["assistant_masks"]]

    return encode


def _apply(tokenizer: Any, messages: list[dict[str, str]], **how: Any) -> Any:
    import jinja2

    try:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **how)
    except (jinja2.TemplateError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"the chat template cannot render a conversation with the roles {roles}: {error}",
            "Fix the roles in the data, or set model.chat_template to a template that takes them",
        ) from error


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


def _ended(text: str, tokenizer: Any) -> str:
    end: str = tokenizer.eos_token
    return text if text.endswith(end) else text + end
