"""Which chat template marks the assistant's turns, so that only they are learned.

A template marks them with ``{% generation %}`` blocks. Few models' own templates do, and TRL ships
templates with the marks for many that do not
(https://huggingface.co/docs/trl/chat_templates#training-templates).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aligntune.errors import ModelError
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.text.encoding import Encoder
from aligntune.worker.text.rendering import Renderer, conversation, make_renderer

Row = Mapping[str, Any]

MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

COMPARED_ROWS = 100
"""Rows that are rendered by both templates if TRL's marks the turns."""


def training_renderer(row: Row, tokenizer: Any, spec: RunSpec) -> Renderer:
    """The renderer of the conversations that are trained on.

    Args:
        row: one of the canonical rows, which all have the same columns.
        tokenizer: of the model.
        spec: the request.

    Raises:
        ModelError: the request needs marked turns, and no template has them.
        SpecError: as :func:`~aligntune.worker.text.rendering.make_renderer`.
    """
    return make_renderer(tokenizer, spec, _find_marking(row, tokenizer, spec))


def _find_marking(row: Row, tokenizer: Any, spec: RunSpec) -> str | None:
    """The chat template that marks assistant turns; None to learn every token.

    Without a request, only conversations (``messages``) are looked at: of a prompt with a
    completion, the completion is learned.
    """
    asked, chats = spec.training.assistant_only_loss, "messages" in row
    chats = chats or (bool(asked) and isinstance(row.get("prompt"), list))
    if tokenizer.chat_template is None or asked is False or not chats:
        return None
    template = marked_template(tokenizer)
    if template is None and asked:
        raise ModelError(
            "the chat template does not mark the assistant's messages ({% generation %}), "
            "which training.assistant_only_loss needs",
            "Set model.chat_template to a template with the markers",
        )
    return template


def marked_template(tokenizer: Any) -> str | None:
    """The tokenizer's chat template if it marks assistant turns, else the one that TRL ships to
    train with it; None if there is none.
    """
    import jinja2
    from trl.chat_template_utils import get_training_chat_template

    own = tokenizer.chat_template
    if not tokenizer.is_fast:
        return None  # only fast tokenizers know which tokens a mark covers
    if isinstance(own, str) and MARK.search(own):
        return own
    try:
        template: str | None = get_training_chat_template(tokenizer)
    except (ValueError, jinja2.TemplateError):
        return None
    return template


def marking_notes(dataset: Any, spec: RunSpec, own: Encoder, trained: Encoder) -> tuple[str, ...]:
    """What the user should know about how assistant turns are found.

    Args:
        dataset: canonical rows.
        spec: the request.
        own: encodes with the tokenizer's chat template.
        trained: encodes with the template of :func:`training_renderer`.
    """
    if "messages" not in dataset.column_names or spec.training.assistant_only_loss is False:
        return ()
    if not trained.marks:
        return (
            "every token of a chat is learned, because the chat template does not mark assistant "
            "turns ({% generation %}); set model.chat_template to one that does",
        )
    if trained.renderer.template == own.tokenizer.chat_template:
        return ()
    first = dataset.select(range(min(COMPARED_ROWS, len(dataset))))
    chats = [conversation(row, "messages") for row in first]
    different = sum(own.chat(chat) != trained.chat(chat) for chat in chats)
    if not different:
        return ()
    return (
        f"{different} of the first {len(first)} rows are rendered differently by TRL's training "
        "template, which marks assistant turns, than by the model's own; "
        "training.assistant_only_loss=false uses the model's own",
    )
