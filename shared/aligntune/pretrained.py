"""Load what a model's folder contains with transformers; what is wrong with it is one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligntune.errors import ModelError
from aligntune.failures import first_line


def read_tokenizer(folder: Path, name: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder; ``name`` is the model's, for messages.

    Raises:
        ModelError: there is no usable tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # transformers raises a dozen classes for a folder without one
        raise ModelError(
            f"{name} has no usable tokenizer: {first_line(error)}",
            "Save the tokenizer in the model's folder",
        ) from error


def set_padding(tokenizer: Any, name: str) -> None:
    """Let the tokenizer pad on the right, with its end-of-sequence token if it has no other.

    Raises:
        ModelError: it has no token to pad with.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"the tokenizer of {name} has neither padding nor end-of-sequence token",
            "Set pad_token in its tokenizer_config.json",
        )
    tokenizer.padding_side = "right"


@contextmanager
def load_errors(name: str, remedy: str) -> Iterator[None]:
    """Turn what loading weights raises, except for a lack of memory, into a ModelError."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{name} does not load: {first_line(error)}", remedy) from error
