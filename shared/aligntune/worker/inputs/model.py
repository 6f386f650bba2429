"""Locate and load the tokenizer, configuration and model of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aligntune.algorithms import Head
from aligntune.contract import INPUT_ROOT_VARIABLE
from aligntune.errors import ModelError, SpecError
from aligntune.failures import first_line
from aligntune.pretrained import load_errors, read_tokenizer, set_padding
from aligntune.record.run_dir import RunDir
from aligntune.spec.run_spec import RunSpec, is_local
from aligntune.spec.trainer_args import longest_row
from aligntune.worker.backend import Backend, ModelForm
from aligntune.worker.device import Device
from aligntune.worker.inputs.checkpoint import every_weight, require_every_adapter_weight
from aligntune.worker.inputs.fetch import fetched
from aligntune.worker.inputs.targets import require_modules


def locate(name: str) -> Path:
    """The path here of a path of the host: below ``/in`` in a container, else the same path."""
    mounted = Path(os.environ.get(INPUT_ROOT_VARIABLE, "/") + name)
    return mounted if mounted.exists() else Path(name)


def locate_model(spec: RunSpec, run: RunDir) -> Path:
    """The model's folder: mounted, or fetched."""
    if is_local(spec.model.name):
        path = locate(spec.model.name)
    else:
        path = Path(fetched(run)["model"]["path"])
    if not (path / "config.json").is_file():
        raise ModelError(
            f"no model in {spec.model.name}: there is no config.json", "Check the path of the model"
        )
    weights = [file for kind in ("*.safetensors", "*.bin") for file in path.glob(kind)]
    if not weights:
        raise ModelError(
            f"{spec.model.name} has no weights (*.safetensors or *.bin)",
            "Save or download the model again",
        )
    for file in weights:
        if not os.access(file, os.R_OK):
            # All capabilities are dropped, so even root cannot read other users' private files.
            raise ModelError(
                f"uid {os.getuid()} may not read {file.name} of {spec.model.name}",
                f"Run chmod a+r {spec.model.name}/{file.name}, or train as its owner",
            )
    return path


def tokenizer_folder(spec: RunSpec, run: RunDir, path: Path) -> Path:
    """The folder of the tokenizer: the adapter's, if it brings one, else the model's.

    An adapter learned with the tokenizer and the chat template that were saved beside it.
    """
    adapter = adapter_folder(spec, run)
    return adapter if adapter and (adapter / "tokenizer_config.json").is_file() else path


def adapter_folder(spec: RunSpec, run: RunDir) -> Path | None:
    """The folder here of the adapter that training starts from, if the request names one."""
    name = spec.adapter.path
    if name is None:
        return None
    return locate(name) if is_local(name) else Path(fetched(run)["adapter"]["path"])


def load_tokenizer(spec: RunSpec, path: Path) -> Any:
    """The model's tokenizer, with right padding and a padding token that is not learned."""
    tokenizer = read_tokenizer(path, spec.model.name, spec.model.trust_remote_code)
    if spec.model.chat_template:
        # Windows' editors begin a file with a byte order mark, which is no part of the template.
        file = locate(spec.model.chat_template)
        tokenizer.chat_template = file.read_text(encoding="utf-8-sig")
    if spec.model.eos_token:
        _set_end(tokenizer, spec.model.eos_token)
    set_padding(tokenizer, spec.model.name)
    return tokenizer


def _set_end(tokenizer: Any, end: str) -> None:
    """Let a token of the vocabulary end a sequence."""
    if end not in tokenizer.get_vocab():
        special = ", ".join(tokenizer.all_special_tokens)
        raise ModelError(
            f"model.eos_token: the tokenizer has no token {end!r}; its special tokens: {special}",
            "Set it to a token of the vocabulary",
        )
    tokenizer.eos_token = end


def load_config(spec: RunSpec, path: Path) -> Any:
    """The model's configuration.

    Raises:
        ModelError: the model type is unknown to this stack.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=spec.model.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{spec.model.name} cannot be read: {first_line(error)}",
            "Set model.trust_remote_code=true if you trust the code in its repository"
            if "trust_remote_code" in str(error)
            else "Check its config.json",
        ) from error
    return config


def context_length(config: Any) -> int | None:
    """The model's longest sequence in tokens; None without a limit, as for state-space models."""
    text = config.get_text_config()
    stated = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((limit for limit in stated if isinstance(limit, int) and limit > 0), None)


def row_length(spec: RunSpec, config: Any) -> int | None:
    """The longest row in tokens: as requested, up to the model's limit; None without a limit."""
    limits = (longest_row(spec), context_length(config))
    return min((limit for limit in limits if limit), default=None)


def load_model(
    spec: RunSpec,
    path: Path,
    config: Any,
    max_length: int | None,
    backend: Backend,
    device: Device,
    run: RunDir,
    head: Head,
) -> Any:
    """Load the model, with the adapter of the request; ``head`` as in :class:`ModelForm`.

    Raises:
        ModelError: this stack does not support the model, or its files are damaged, or have other
            weights than the model.
    """
    attention = None if spec.model.attention == "auto" else spec.model.attention
    form = ModelForm(_dtype(spec, config, device), attention, max_length, head, config)
    name = spec.model.name
    with load_errors(name, "Check the model's files"), every_weight(name, path, head):
        model = backend.load_model(spec, path, form)
    if spec.adapter.type != "none":
        model = _with_adapter(spec, model, backend, run, head)
        # Rounding would lose small updates of modules that are new, or trained whole.
        if head == "classifier" or spec.adapter.modules_to_save:
            for weight in model.parameters():
                weight.data = weight.data.float() if weight.requires_grad else weight.data
        for shape in model.peft_config.values():
            # The host's name of the base, so that the adapter loads outside this container.
            shape.base_model_name_or_path = spec.model.name
            shape.revision = spec.model.revision
    return model


def _with_adapter(spec: RunSpec, model: Any, backend: Backend, run: RunDir, head: Head) -> Any:
    name, path = spec.adapter.path, adapter_folder(spec, run)
    if path is None:
        require_modules(model, spec)
        try:
            return backend.add_adapter(spec, model, head)
        except ValueError as error:
            raise SpecError(f"adapter: {first_line(error)}", "Check adapter.targets") from error
    from peft import PeftConfig, PeftModel

    try:
        made_for = PeftConfig.from_pretrained(str(path)).task_type
        if (head == "classifier") != (made_for == "SEQ_CLS"):
            raise ModelError(
                f"the adapter {name} is for {made_for}, but {spec.algorithm} trains another "
                "kind of model",
                "Merge it into its base (peft's merge_and_unload), and train the result",
            )
        adapted = PeftModel.from_pretrained(model, str(path), is_trainable=True)
        remedy = "Save the adapter again, or use the model that it was trained on"
        require_every_adapter_weight(adapted, path, f"the adapter {name}", remedy)
        return adapted
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"the adapter {spec.adapter.path} does not fit {spec.model.name}: {first_line(error)}",
            "Use the model that the adapter was trained on",
        ) from error


def _dtype(spec: RunSpec, config: Any, device: Device) -> Any:
    import torch

    if spec.model.dtype != "auto":
        return getattr(torch, spec.model.dtype)
    if spec.adapter.type == "none":
        return torch.float32
    own = getattr(config, "dtype", None) or torch.float32
    if own in (torch.float16, torch.bfloat16):
        # Half-precision weights use the device's half precision; a CPU is slow in fp16.
        return torch.float16 if device.precision == "fp16" else torch.bfloat16
    return own


def require_matching(tokenizer: Any, model: Any, spec: RunSpec) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for."""
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embeddings:
        raise ModelError(
            f"wrong tokenizer: it has {len(tokenizer)} tokens, but {spec.model.name} has "
            f"{embeddings} embeddings",
            "Use the tokenizer that belongs to the model",
        )
