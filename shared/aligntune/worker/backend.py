"""What a backend is: the protocol of the one module, ``aligntune_backend``, that an image adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, cast

import aligntune
from aligntune.record.code_hash import code_hash
from aligntune.spec.run_spec import RunSpec


class Backend(Protocol):
    """Load a model, attach an adapter, make ready to generate. Everything else is written once."""

    NAME: str

    def prepare(self) -> None:
        """Import what must be imported before torch, transformers and trl."""

    def model_arguments(self) -> Collection[str]:
        """What :meth:`load_model` takes from the backend's own section of the spec."""

    def load_model(
        self,
        spec: RunSpec,
        path: Path,
        dtype: Any,
        attention: str | None,
        max_length: int | None,
        head: str,
    ) -> Any:
        """The model in ``path``.

        Args:
            spec: the request, for quantization and trust in remote code.
            path: local folder of the model.
            dtype: ``torch.dtype`` the weights are held in.
            attention: attention implementation, or None for the backend's own choice.
            max_length: tokens of the longest sequence, None where nothing limits it.
            head: ``causal``, or ``classifier`` for one with a single label.
        """

    def trainer_arguments(self, spec: RunSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The trainer's arguments as this backend takes them.

        Args:
            spec: the request.
            arguments: all that the worker sets. What a backend decides better by itself it removes,
                unless the user set it.
        """

    def add_adapter(self, spec: RunSpec, model: Any, head: str) -> Any:
        """``model`` with a new, trainable LoRA adapter of the shape that ``spec.adapter`` says."""

    def computes_loss(self) -> bool:
        """Whether the forward of a model computes a loss from labels without making whole logits,
        and returns none. Otherwise an evaluation puts TRL's fused head on the model.
        """

    def inference(self, model: Any) -> AbstractContextManager[None]:
        """The model ready to generate for as long as this lasts, and to train again afterwards.

        Gradient checkpointing is afterwards what it was before.
        """


def installed() -> Backend:
    """This environment's backend."""
    import aligntune_backend

    return cast(Backend, aligntune_backend)


def installed_code() -> str:
    """The hash of the code that this worker runs, see :mod:`aligntune.record.code_hash`."""
    import aligntune_backend

    return code_hash(Path(aligntune.__file__).parent, Path(aligntune_backend.__file__))
