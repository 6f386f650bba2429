"""From canonical rows to token ids and labels, the same on every backend.

The trainers get ``input_ids`` and ``labels`` (-100 where a token is not learned), so neither TRL
nor Unsloth's rewritten data preparation decides anything. The conventions are TRL's: plain text
and completions end in the end-of-sequence token, a completion begins where the tokens of the
prompt and of prompt plus completion part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from aligntune.errors import DataError, ModelError
from aligntune.spec.run_spec import RunSpec

IGNORED = -100
"""Label of a token that is not learned, as torch's cross entropy has it."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Tokenized:
    """Rows as token ids, and in words which of them were cut or left out."""

    dataset: Any
    notes: tuple[str, ...] = ()


def notes(*counted: tuple[int, str]) -> tuple[str, ...]:
    """``(3, "rows are cut")`` told as ``3 rows are cut``, and nothing of what there is none."""
    return tuple(f"{count} {what}" for count, what in counted if count)


def tokenize(dataset: Any, tokenizer: Any, spec: RunSpec, limit: int | None) -> Tokenized:
    """Encode canonical rows.

    Args:
        dataset: canonical rows, see :mod:`aligntune.data.rows`.
        tokenizer: of the model.
        spec: the request, for what is learned.
        limit: tokens that rows are cut to, None keeps them whole.

    Raises:
        ModelError: chat data without a chat template, or one that cannot render a row.
        DataError: no row has anything to learn, or the loss that was asked for does not fit.
    """
    encode = _encoder(dataset.column_names, is_chat(dataset), tokenizer, spec)

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
    # The first label is never predicted, so a row learns only from the second on.
    useful = encoded.filter(
        lambda row: any(label != IGNORED for label in row["labels"][1:]), keep_in_memory=True
    )
    if len(useful) == 0:
        raise DataError(
            "no row has a token to learn" + (f" within {limit} tokens" if limit else ""),
            "Raise training.max_length as far as the model goes, or change what is learned",
        )
    return Tokenized(
        dataset=useful.select_columns(["input_ids", "labels", "length"]),
        notes=notes(
            (sum(encoded["cut"]), f"rows are longer than {limit} tokens and were cut"),
            (
                len(encoded) - len(useful),
                "rows have no token left to learn and were left out",
            ),
        ),
    )


def _encoder(
    columns: list[str], conversational: bool, tokenizer: Any, spec: RunSpec
) -> Callable[[Row], tuple[list[int], list[bool]]]:
    """How a row becomes token ids, and which of them are learned."""
    training = spec.training
    chat = conversational or "messages" in columns
    if training.assistant_only_loss and not chat:
        raise DataError("training.assistant_only_loss needs chat data", "Leave it out")
    if training.completion_only_loss and "prompt" not in columns:
        raise DataError(
            "training.completion_only_loss needs prompt-completion data", "Leave it out"
        )
    require_usable(tokenizer, spec, chat)
    if "prompt" in columns:
        whole = training.completion_only_loss is False
        return _prompt_encoder(tokenizer, chat, whole, training.assistant_only_loss)
    if chat:
        return _chat_encoder(tokenizer, training.assistant_only_loss)

    def encode_text(row: Row) -> tuple[list[int], list[bool]]:
        tokens = tokenizer(_ended(row["text"], tokenizer))["input_ids"]
        return tokens, [True] * len(tokens)

    return encode_text


def _prompt_encoder(
    tokenizer: Any, chat: bool, whole: bool, assistant_only: bool
) -> Callable[[Row], tuple[list[int], list[bool]]]:
    render = _chat_encoder(tokenizer, assistant_only) if chat else None

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
    """The tokens that a completion is asked for with: text as it is, a chat up to the answer."""
    if isinstance(prompt, str):
        tokens = tokenizer(prompt)["input_ids"]
    else:
        tokens = _apply(tokenizer, prompt, add_generation_prompt=True)["input_ids"]
    return list(tokens)


def encode_answered(tokenizer: Any, prompt: Any, completion: Any) -> list[int]:
    """The tokens of a prompt with its completion, to the end-of-sequence token."""
    if isinstance(prompt, str):
        tokens = tokenizer(prompt + _ended(completion, tokenizer))["input_ids"]
    else:
        tokens = _apply(tokenizer, prompt + completion)["input_ids"]
    return list(tokens)


def shared(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences begin with together."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def is_chat(dataset: Any) -> bool:
    """Whether rows hold messages rather than text."""
    return isinstance(dataset[0].get("prompt"), list)


def _chat_encoder(
    tokenizer: Any, assistant_only: bool
) -> Callable[[Row], tuple[list[int], list[bool]]]:
    template = None
    if assistant_only:
        from trl.chat_template_utils import get_training_chat_template

        try:
            # None where the tokenizer's own template marks the assistant's turns already.
            template = get_training_chat_template(tokenizer)
        except ValueError as error:
            raise ModelError(
                "the chat template does not mark the assistant's turns ({% generation %}), "
                "which training.assistant_only_loss needs",
                "Add the markers to a template and set model.chat_template to it",
            ) from error

    def encode(row: Row) -> tuple[list[int], list[bool]]:
        if not assistant_only:
            tokens = _apply(tokenizer, row["messages"])["input_ids"]
            return tokens, [True] * len(tokens)
        rendered = _apply(
            tokenizer,
            row["messages"],
            return_assistant_tokens_mask=True,
            **({"chat_template": template} if template else {}),
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
            f"the chat template cannot render a conversation of {roles}: {error}",
            "Mend the data's roles, or set model.chat_template to a template that takes them",
        ) from error


def require_usable(tokenizer: Any, spec: RunSpec, chat: bool) -> None:
    """Refuse a tokenizer that cannot render the data, or that knows no end.

    Raises:
        ModelError: it has no chat template for chat data, or no end-of-sequence token.
        DataError: a chat template is given, and the data is text.
    """
    if spec.model.chat_template and not chat:
        raise DataError("model.chat_template needs chat data, and this is text", "Leave it out")
    if chat and tokenizer.chat_template is None:
        raise ModelError(
            f"the tokenizer of {spec.model.name} has no chat template, and the data is chat",
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
