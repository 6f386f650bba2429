"""What a backend is: the protocol of the one module, ``aligntune_backend``, that an image adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from aligntune.algorithms import Algorithm
from aligntune.spec import RunSpec


class Backend(Protocol):
    """Load a model, attach an adapter, name the trainer. Everything else is written once."""

    NAME: str

    def prepare(self) -> None:
        """Import what must be imported before torch, transformers and trl."""

    def load_model(
        self, spec: RunSpec, path: Path, dtype: Any, attention: str | None, max_length: int | None
    ) -> Any:
        """The causal language model in ``path``.

        Args:
            spec: the request, for quantization and trust in remote code.
            path: local folder of the model.
            dtype: ``torch.dtype`` the weights are held in.
            attention: attention implementation, or None for the backend's own choice.
            max_length: tokens of the longest sequence, None where nothing limits it.
        """

    def add_adapter(self, spec: RunSpec, model: Any) -> Any:
        """``model`` with a new, trainable LoRA adapter of the shape that ``spec.adapter`` says."""

    def trainer(self, row: Algorithm) -> tuple[type[Any], type[Any]]:
        """The trainer's class and its configuration's class for an algorithm."""


def installed() -> Backend:
    """This environment's backend."""
    import aligntune_backend

    return cast(Backend, aligntune_backend)
