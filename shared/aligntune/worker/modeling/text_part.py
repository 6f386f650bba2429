"""The text part of a checkpoint that also has a vision part, such as Gemma 3's."""

from __future__ import annotations

from typing import Any

from aligntune.errors import ModelError
from aligntune.worker.modeling.model import plain

RENAMED = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}
"""Names of weights in a checkpoint with a vision part -> names in the class of its text part."""


def has_vision(config: Any) -> bool:
    """Whether a configuration has a vision part."""
    return hasattr(config, "vision_config")


def trained_config(config: Any) -> Any:
    """The configuration of what is trained: the text part, if there is a vision part."""
    return config.get_text_config() if has_vision(config) else config


def text_class(config: Any, model: Any) -> str | None:
    """The class of the model, if it is the text part of a checkpoint with a vision part."""
    return type(plain(model)).__name__ if has_vision(config) else None


def text_part_notes(config: Any, model: Any) -> tuple[str, ...]:
    """What is said if only the text part of a checkpoint is trained."""
    name = text_class(config, model)
    if name is None:
        return ()
    return (
        f"{config.model_type} also has a vision part, which is left out: its text part is trained "
        f"and saved as {name}",
    )


def load_text_part(
    kind: Any, config: Any, path: Any, num_labels: int | None = None, **how: Any
) -> Any:
    """Load the text part of a checkpoint with its own class.

    Args:
        kind: an ``AutoModel`` class of transformers.
        config: configuration of the checkpoint.
        path: its folder.
        num_labels: of a classifier.
        how: further arguments of ``from_pretrained``.

    Raises:
        ModelError: transformers has no class for the text part.
    """
    text = trained_config(config)
    if type(text) not in kind._model_mapping:
        raise ModelError(
            f"{config.model_type} is a vision model, and transformers has no class for its text "
            "part alone",
            "Use a causal language model",
        )
    text.tie_word_embeddings = config.tie_word_embeddings
    if num_labels is not None:
        text.num_labels = num_labels
    model = kind.from_pretrained(path, config=text, key_mapping=RENAMED, **how)
    # Saving would reverse the renaming, but the result is a checkpoint of the text class.
    if hasattr(model, "_weight_conversions"):
        del model._weight_conversions
    return model
