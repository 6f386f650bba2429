"""The tokens that end generation: all that the tokenizer, the model and the chat template name."""

from __future__ import annotations

from itertools import dropwhile, takewhile
from typing import Any

from aligntune.errors import ModelError
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.modeling.generate import ends
from aligntune.worker.modeling.model import plain
from aligntune.worker.text.assistant_turns import training_renderer
from aligntune.worker.text.encoding import shared
from aligntune.worker.text.rendering import MARK, Conversation, Renderer
from aligntune.worker.text.tokenize import is_chat

WITHOUT_END = (
    "the chat template does not end the assistant's turn with a special token, so the model may "
    "not learn to stop; write {{ eos_token }} after the assistant's content in a template of yours "
    "(model.chat_template)"
)


def settle_ends(
    model: Any, renderer: Renderer, chat: bool
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The tokens that end generation, with notes about them.

    A chat template may end the assistant's turn with another token than the tokenizer's, such as
    ``<|im_end|>`` beside ``<|endoftext|>``. It is added to the model's generation config, which is
    saved with the model.

    Args:
        model: a causal language model; its generation config is completed.
        renderer: of the chat template.
        chat: whether conversations are rendered.
    """
    tokenizer = renderer.tokenizer
    found, notes = ends(model, tokenizer), []
    if chat:
        end = end_of_turn(renderer)
        if end is None:
            notes.append(WITHOUT_END)
        elif end not in found:
            found.append(end)
            notes.append(
                f"{tokenizer.convert_ids_to_tokens(end)} ends the assistant's turn in the chat "
                "template, so it also ends generation now"
            )
    settings = getattr(plain(model), "generation_config", None)
    if settings is not None:
        own = settings.eos_token_id
        own = own if isinstance(own, list) else [] if own is None else [own]
        if set(found) > set(own):  # what was trained to end must also end generation elsewhere
            settings.eos_token_id = [*own, *(token for token in found if token not in own)]
    return tuple(found), tuple(notes)


def settle_run_ends(
    spec: RunSpec, model: Any, tokenizer: Any, dataset: Any
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """As :func:`settle_ends`, for a run's rows; a classifier generates nothing."""
    if spec.row.head == "classifier":
        return (), ()
    chat = is_chat(dataset) or "messages" in dataset.column_names
    return settle_ends(model, training_renderer(dataset[0], tokenizer, spec), chat)


def end_of_turn(renderer: Renderer) -> int | None:
    """The token with which a chat template ends the assistant's turn; None if there is none.

    It is the last of the special tokens that follow both the last answer and an earlier one, or
    else the first special token after the last answer.
    """
    last, earlier = _after_answer(renderer, 1), _after_answer(renderer, 2)
    tokenizer = renderer.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    always = last[: shared(last, earlier)]
    ends = takewhile(special.__contains__, dropwhile(lambda token: token not in special, always))
    return next(iter([*ends][-1:]), next((token for token in last if token in special), None))


def _after_answer(renderer: Renderer, turns: int) -> list[int]:
    """What a chat template writes after the first answer of a conversation of so many turns."""
    marks = [MARK.format(place) for place in range(2 * turns)]
    roles = ("user", "assistant") * turns
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    try:
        text = renderer.render(Conversation(messages)).text
    except ModelError:
        return []  # it takes no such conversation; every row is checked as well
    tail = text.rpartition(marks[1])[2].partition(MARK.format(2))[0]
    return list(renderer.tokenizer(tail, add_special_tokens=False)["input_ids"])
