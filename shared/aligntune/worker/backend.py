"""The protocol of a backend: the module ``aligntune_backend`` that an image provides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import aligntune
from aligntune.algorithms import Head
from aligntune.record.code_hash import code_hash
from aligntune.spec.run_spec import RunSpec


@dataclass(frozen=True)
class ModelForm:
    """What a model is loaded as.

    Attributes:
        dtype: ``torch.dtype`` of the weights.
        attention: attention implementation, or None for the backend's default.
        max_length: tokens of the longest sequence, None without a limit.
        head: ``causal``, or ``classifier`` for a classifier with one label.
        config: the configuration of the checkpoint.
    """

    dtype: Any
    attention: str | None
    max_length: int | None
    head: Head
    config: Any


class Backend(Protocol):
    """Loads models, adds adapters, prepares generation. The worker shares everything else."""

    NAME: str

    def prepare(self) -> None:
        """Import whatever must come before torch, transformers and trl."""

    def model_arguments(self) -> Collection[str]:
        """The arguments that :meth:`load_model` reads from the backend's section of the spec."""

    def load_model(self, spec: RunSpec, path: Path, form: ModelForm) -> Any:
        """Load the model in ``path``, a local folder.

        Args:
            spec: the request, for quantization and trust in remote code.
            path: folder of the model.
            form: what to load it as.
        """

    def trainer_arguments(self, spec: RunSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The trainer's arguments for this backend.

        Args:
            spec: the request.
            arguments: all arguments that the worker sets. A backend removes those that it chooses
                better itself, unless the user set them.
        """

    def add_adapter(self, spec: RunSpec, model: Any, head: Head) -> Any:
        """``model`` with a new, trainable LoRA adapter as described by ``spec.adapter``."""

    def computes_loss(self) -> bool:
        """Whether a model's forward computes a loss from labels without full logits, and returns no
        logits. Otherwise evaluation adds TRL's fused head to the model.
        """

    def inference(self, model: Any) -> AbstractContextManager[None]:
        """Prepare the model to generate inside this context, and to train again after it.

        The context restores gradient checkpointing.
        """


def lora_arguments(spec: RunSpec) -> dict[str, Any]:
    """The request's LoRA adapter, as peft and Unsloth call its values."""
    return {
        "r": spec.adapter.rank,
        "lora_alpha": spec.adapter.lora_alpha,
        "lora_dropout": spec.adapter.dropout,
        "target_modules": spec.adapter.targets,
        "modules_to_save": spec.adapter.modules_to_save or None,
        "use_rslora": spec.adapter.rslora,
        "use_dora": spec.adapter.dora,
    }


def installed() -> Backend:
    """The backend of this environment."""
    import aligntune_backend

    return cast(Backend, aligntune_backend)


def installed_code() -> str:
    """The hash of the code that this worker runs, see :mod:`aligntune.record.code_hash`."""
    import aligntune_backend

    return code_hash(Path(aligntune.__file__).parent, Path(aligntune_backend.__file__))
