"""Write a model's folder, and try it before training."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligntune.errors import ModelError, OutputError
from aligntune.failures import first_line
from aligntune.record.run_dir import RunDir
from aligntune.worker.inputs.checkpoint import require_every_adapter_weight
from aligntune.worker.modeling.model import plain
from aligntune.worker.modeling.reference import REFERENCE_ADAPTER
from aligntune.worker.saving.given import GENERATION, Given

TRIAL = "model.trial"

LOADING = ("is_local", "local_files_only")
"""Arguments of ``from_pretrained`` that tokenizers save as if they were settings."""

TRIAL_BYTES = 64 * 2**20
"""The most weights that a trial writes. A larger model writes its smallest tensors only."""


def save_model(trainer: Any, tokenizer: Any, given: Given, run: RunDir) -> None:
    """Write weights (safetensors) and tokenizer to ``model/``, atomically.

    Weights that were loaded from a half-precision file and trained in float32 are rounded to the
    file's dtype, in memory too. So an evaluation after this measures exactly the saved weights.
    """
    beside = run.path / "model.part"
    shutil.rmtree(beside, ignore_errors=True)
    with _in_dtype(trainer.model, given.dtype):
        _write(trainer, tokenizer, given, beside, None)
    if run.model.exists():  # of an earlier attempt whose record could not be written
        shutil.rmtree(run.model)
    os.replace(beside, run.model)


def try_saving(trainer: Any, tokenizer: Any, given: Given, run: RunDir) -> None:
    """Save the untrained model to a scratch folder, and read back what is small.

    This costs at most :data:`TRIAL_BYTES` of weights, besides the tokenizer, and a fraction of a
    second. An adapter is saved whole.

    Raises:
        ModelError: the model, its settings or its tokenizer cannot be saved or read back.
        OutputError: the folder cannot be written.
    """
    folder = run.path / TRIAL
    shutil.rmtree(folder, ignore_errors=True)
    remedy = "Fix what the message names. Nothing has been trained"
    try:
        _write(trainer, tokenizer, given, folder, _few_weights(trainer.model))
        _read_back(folder, tokenizer, given.trust)
        if hasattr(trainer.model, "peft_config"):
            remedy = "Leave these modules out of adapter.targets. Nothing has been trained"
            require_every_adapter_weight(trainer.model, folder, "the saved adapter", remedy)
    except ModelError:
        raise
    except Exception as error:  # whatever transformers, peft and safetensors raise
        what = f"the model could not be saved after training: {first_line(error)}"
        if isinstance(error, OSError) and error.errno:  # transformers raises OSError too
            disk = "Free space on the disk of the run directory, or set --output"
            raise OutputError(what, disk) from error
        traceback.print_exc()
        raise ModelError(what, remedy) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    trainer: Any, tokenizer: Any, given: Given, folder: Path, weights: dict[str, Any] | None
) -> None:
    """Write everything; ``weights`` instead of all of the model's if they are given."""
    for name in LOADING:
        tokenizer.init_kwargs.pop(name, None)
    side, tokenizer.padding_side = tokenizer.padding_side, given.padding_side
    try:
        with given.restored(plain(trainer.model).config):
            if weights is None:
                trainer.save_model(str(folder))
            else:
                trainer._save(str(folder), state_dict=weights)
        tokenizer.save_pretrained(str(folder))
        settings = getattr(plain(trainer.model), "generation_config", None)
        if settings is not None and not (folder / GENERATION).exists():
            # Nothing else writes the tokens that end generation beside an adapter.
            settings.save_pretrained(str(folder))
    finally:
        tokenizer.padding_side = side
    given.restore_generation(folder)
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody needs
    shutil.rmtree(folder / REFERENCE_ADAPTER, ignore_errors=True)  # needed in training only
    for path in folder.iterdir():
        if path.is_file():  # safetensors makes files readable for their owner only
            path.chmod(_file_mode())


def _few_weights(model: Any) -> dict[str, Any] | None:
    """The smallest weights, tied ones together, up to :data:`TRIAL_BYTES`; None for all of them."""
    if hasattr(model, "peft_config"):
        return None
    tied: dict[tuple[int, int], dict[str, Any]] = {}
    for name, weight in model.state_dict().items():
        tied.setdefault((weight.data_ptr(), weight.nbytes), {})[name] = weight
    found: dict[str, Any] = {}
    left = TRIAL_BYTES
    for (_, size), group in sorted(tied.items(), key=lambda item: item[0][1]):
        left -= size
        if left < 0:
            return found
        found |= group
    return None


def _read_back(folder: Path, tokenizer: Any, trust: bool) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    how = {"local_files_only": True, "trust_remote_code": trust}
    if (folder / "config.json").is_file():
        AutoConfig.from_pretrained(folder, **how)
    if (folder / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(folder, local_files_only=True)
    again = AutoTokenizer.from_pretrained(folder, **how)
    text = f"Is it 1 or 2?\n{tokenizer.eos_token or ''}"
    if again(text)["input_ids"] != tokenizer(text)["input_ids"]:
        raise ValueError("the saved tokenizer makes other tokens than the one that was loaded")
    if again.chat_template != tokenizer.chat_template:
        raise ValueError("the saved tokenizer has another chat template")


@contextmanager
def _in_dtype(model: Any, dtype: Any | None) -> Iterator[None]:
    """Trained float32 weights in ``dtype`` inside this context, and rounded to it afterwards.

    Parameters only: buffers such as rotary frequencies are computed, not trained. An adapter has
    no dtype to return to.
    """
    import torch

    strict = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    casts = [
        weight
        for name, weight in model.named_parameters()
        if weight.dtype == torch.float32 and not any(part in name.split(".") for part in strict)
    ]
    if dtype in (None, torch.float32) or hasattr(model, "peft_config"):
        casts = []
    for weight in casts:
        weight.data = weight.data.to(dtype)
    try:
        yield
    finally:
        for weight in casts:
            weight.data = weight.data.float()


def _file_mode() -> int:
    """The mode of a new file under the caller's umask."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask
