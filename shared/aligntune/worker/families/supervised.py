"""Supervised: learn the tokens of good answers."""

from __future__ import annotations

from typing import Any

from aligntune.spec.run_spec import RunSpec
from aligntune.worker.families import Setup
from aligntune.worker.metrics import Measurement, padded, token_loss
from aligntune.worker.text.tokenize import Tokenized, tokenize

BEST = ("loss", False)
PREPARED = False


def arguments(spec: RunSpec, max_length: int | None) -> dict[str, Any]:
    """See :class:`~aligntune.worker.families.Family`."""
    packing = spec.training.packing
    return {
        # Rows are cut already, and padding_free refuses a maximum length.
        "max_length": None if spec.trainer_args.get("padding_free") and not packing else max_length,
        "packing": packing,
        "packing_strategy": "bfd",
        "eval_packing": False,
        "padding_free": False,
        "pad_to_multiple_of": None,
        "shuffle_dataset": False,
        "dataset_kwargs": None,
        "completion_only_loss": False,  # labels contain the mask already, see text/tokenize.py
        "assistant_only_loss": False,
        "loss_type": "nll",
        "activation_offloading": False,
        "eos_token": None,
        "pad_token": None,
    }


def encode(dataset: Any, setup: Setup, train: bool) -> Tokenized:
    """Rows with ``input_ids``, ``labels`` and ``length``."""
    whole = train and keeps_whole_rows(setup.spec)
    limit = None if whole else setup.max_length
    return tokenize(dataset, setup.tokenizer, setup.spec, limit, setup.ends)


def extras(setup: Setup) -> dict[str, Any]:
    return {}


def measure(model: Any, rows: Any, setup: Setup, frozen: Any | None) -> Measurement:
    """Loss (mean over tokens, nats), perplexity and number of tokens."""
    batches = padded(rows, setup.spec.training.batch_size, setup.tokenizer.pad_token_id)
    return Measurement(token_loss(model, batches, setup.head))


def keeps_whole_rows(spec: RunSpec) -> bool:
    """Whether packing splits long rows over several sequences."""
    return spec.training.packing and spec.trainer_args.get("packing_strategy", "bfd") != "bfd"
