"""Refuse a checkpoint that is not the whole model: transformers draws missing weights at random."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligntune.algorithms import Head
from aligntune.errors import ModelError

SHOWN = 3
"""Names in a message; the number of all of them follows."""

BUFFERS = re.compile(r"(^|\.)(attn\.bias|masked_bias|attention\.bias|inv_freq|position_ids)$")
"""Masks and positions that older checkpoints contain besides their weights."""

OTHER_INPUTS = re.compile("vision|visual|image|audio|speech|multi_?modal|mm_")
"""Weights of a multimodal checkpoint that its text model does not have."""

WRAPPERS = ("_orig_mod.", "module.", "base_model.model.", "_fsdp_wrapped_module.")
"""Prefixes that torch.compile, DDP, peft and FSDP put in front of every name."""


Report = tuple[Any, Any]
"""A model, and what transformers found out about its weights (``LoadStateDictInfo``)."""


@contextmanager
def every_weight(name: str, folder: Path, head: Head) -> Iterator[None]:
    """Refuse weights that are missing, unknown to the model, or of another size.

    For a model that is loaded inside this context. The exceptions of its architecture (tied
    weights, ``_keys_to_ignore_on_load_missing``) are none of these.

    Args:
        name: the model in the request.
        folder: its files.
        head: ``causal``, or ``classifier``, whose head may be new and replaces the model's own.

    Raises:
        ModelError: the checkpoint does not match; the message has the names.
    """
    with _load_reports() as reports:
        try:
            yield
        except (RuntimeError, ValueError):  # it names no weights; the report does
            _require_every_weight(reports, name, folder, head)
            raise
    _require_every_weight(reports, name, folder, head)


@contextmanager
def _load_reports() -> Iterator[list[Report]]:
    """Collect transformers' reports inside this context.

    A backend's loader may not pass ``output_loading_info`` on, so the report is read where it is
    written.
    """
    from transformers import modeling_utils

    found: list[Report] = []
    write = modeling_utils.log_state_dict_report

    def record(*arguments: Any, **named: Any) -> None:
        model = named["model"] if "model" in named else arguments[0]
        info = named["loading_info"] if "loading_info" in named else arguments[3]
        found.append((model, info))
        write(*arguments, **named)

    modeling_utils.log_state_dict_report = record
    try:
        yield found
    finally:
        modeling_utils.log_state_dict_report = write


def _require_every_weight(reports: Sequence[Report], name: str, folder: Path, head: Head) -> None:
    multimodal = _is_multimodal(folder)
    for model, info in reports:
        body = f"{model.base_model_prefix}."
        missing, unexpected = set(info.missing_keys), set(info.unexpected_keys)
        if head == "classifier":
            missing = {key for key in missing if key.startswith(body)}
            unexpected = {key for key in unexpected if key.startswith(body)}
        unexpected = {key for key in unexpected if not BUFFERS.search(key)}
        if multimodal:
            unexpected = {key for key in unexpected if not OTHER_INPUTS.search(key)}
        sizes = [
            f"{key} is {list(there)} in the files and {list(here)} in the model"
            for key, there, here in sorted(info.mismatched_keys)
        ]
        problems = [
            f"{what} {_listed(keys)}"
            for what, keys in (
                ("missing:", sorted(missing)),
                ("unknown to the model:", sorted(unexpected)),
                ("of another size:", sizes),
            )
            if keys
        ]
        if problems:
            raise ModelError(
                f"the weights of {name} do not match its config.json: {'; '.join(problems)}",
                _remedy(missing, unexpected, bool(sizes)),
            )


def require_every_adapter_weight(model: Any, folder: Path, name: str, remedy: str) -> None:
    """Refuse an adapter that peft does not load whole. It only warns about missing weights.

    They may be missing in the file. Or peft gives them other names, as it does for the base's
    weights of some architectures, and does not find these in the model.

    Args:
        model: with the adapter active, which is loaded again.
        folder: of the adapter.
        name: the adapter, for the message.
        remedy: what to do.

    Raises:
        ModelError: weights are missing, or unknown to the model.
    """
    from peft import set_peft_model_state_dict
    from peft.utils import load_peft_weights

    active = model.active_adapter
    weights = load_peft_weights(str(folder), device="cpu")
    found = set_peft_model_state_dict(model, weights, adapter_name=active)
    missing = sorted(key for key in found.missing_keys if f".{active}" in key)
    both = (("missing:", missing), ("unknown to the model:", sorted(found.unexpected_keys)))
    if problems := [f"{what} {_listed(keys)}" for what, keys in both if keys]:
        raise ModelError(f"peft does not load all of {name}: {'; '.join(problems)}", remedy)


def _is_multimodal(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any(key in config for key in ("vision_config", "audio_config"))


def _listed(keys: Sequence[str]) -> str:
    more = f", ... ({len(keys)} in all)" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _remedy(missing: Iterable[str], unexpected: Iterable[str], sizes: bool) -> str:
    prefix = next(
        (wrapper for wrapper in WRAPPERS if any(key.startswith(wrapper) for key in unexpected)),
        None,
    )
    if prefix:
        return f"Remove '{prefix}' from the names, or save the model without its wrapper"
    if set(missing) == {"lm_head.weight"}:
        return (
            'If the model has no output matrix of its own, set "tie_word_embeddings": true in '
            "config.json; else save the model with its head"
        )
    if sizes:
        return "Use the config.json that the weights were saved with"
    return "Save or download the model again"
