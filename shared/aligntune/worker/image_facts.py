"""What an image supports, as measured in the image: ``python -m aligntune.worker.image_facts``.

``images/refresh.py`` runs it and keeps the answer beside the lock as ``facts.json``, so the host
can judge a request without a container; a test holds the two against each other.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import platform
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aligntune.algorithms import ALGORITHMS
from aligntune.packages import present
from aligntune.worker.backend import Backend, installed
from aligntune.worker.families import trainer_classes

STACK = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "huggingface_hub",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "transformers",
    "trl",
    "unsloth",
    "unsloth_zoo",
)
FLAVOURED = ("torch", "torchvision", "triton")
"""The part of the stack whose builds differ between flavours."""

MIN_DRIVERS = {"13.0": "580.65.06"}
"""CUDA version -> oldest Linux driver, from NVIDIA's CUDA Toolkit release notes."""

EMULATION = {
    "UNSLOTH_ALLOW_CPU": "1",
    "UNSLOTH_COMPILE_DISABLE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TRITON_INTERPRET": "1",
}
"""Lets Unsloth import its GPU half without a GPU. Not for training: it turns the patches off."""


def facts() -> dict[str, Any]:
    """This environment as plain data; ``flavour`` has what depends on the flavour of torch."""
    backend = installed()
    _import_as_on_a_gpu(backend)

    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "versions": _versions(STACK),
        "packages": present(),
        "model_types": sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        "fast_model_types": _fast_model_types(),
        "trainer_args": {
            row.config: _arguments(trainer_classes(row)[1])
            for row in ALGORITHMS.values()
            if backend.NAME in row.backends
        },
        "model_args": sorted(backend.model_arguments()),
        "optimizers": sorted(name.value for name in OptimizerNames),
        "schedules": sorted(name.value for name in SchedulerType),
        "flavour": {"versions": _versions(FLAVOURED), **_gpu_support()},
    }


def _import_as_on_a_gpu(backend: Backend) -> None:
    """Import the backend with the patches that it applies only on a GPU.

    Without a GPU, Unsloth is stock TRL and has fewer trainer arguments than in a real run. Nothing
    runs on the simulated device.
    """
    if find_spec("unsloth") is None:
        backend.prepare()
        return
    os.environ.update(EMULATION)
    import torch

    device = SimpleNamespace(
        name="simulated", major=8, minor=0, total_memory=80 * 2**30, multi_processor_count=108,
        warp_size=32, max_threads_per_multi_processor=2048, regs_per_multiprocessor=2**16,
        shared_memory_per_block=48 * 2**10, shared_memory_per_block_optin=164 * 2**10,
        shared_memory_per_multiprocessor=164 * 2**10, L2_cache_size=40 * 2**20,
        gcnArchName="", is_integrated=False,
    )  # fmt: skip
    torch.cuda.get_device_properties = lambda *_: device
    backend.prepare()
    os.environ["UNSLOTH_ALLOW_CPU"] = "0"

    from unsloth import FastLanguageModel, PatchFastRL
    from unsloth.trainer import _patch_trl_trainer

    PatchFastRL(FastLanguageModel=FastLanguageModel)
    _patch_trl_trainer()


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _arguments(config: Any) -> list[str]:
    """A configuration's arguments; in Unsloth's versions some parameters are not fields."""
    named = {field.name for field in fields(config) if field.init}
    named |= set(inspect.signature(config.__init__).parameters)
    return sorted(named - {"self", "kwargs"})


def _gpu_support() -> dict[str, Any]:
    """The CUDA version of torch, and its requirements; None and empty without CUDA."""
    import torch

    if torch.version.cuda is None:
        return {"cuda": None, "arch_list": [], "min_driver": None, "min_compute_capability": None}
    flags = torch._C._cuda_getArchFlags() or ""  # torch.cuda.get_arch_list() needs a GPU
    real = [int(flag[3:].rstrip("af")) for flag in flags.split() if flag.startswith("sm_")]
    least = divmod(min(real), 10)
    return {
        "cuda": torch.version.cuda,
        "arch_list": flags.split(),
        "min_driver": MIN_DRIVERS[torch.version.cuda],
        "min_compute_capability": f"{least[0]}.{least[1]}",
    }


def _fast_model_types() -> list[str]:
    """Model types with a hand-written path in Unsloth, read from its loader's ``if`` chain.

    There is no other list: ``if model_type == "llama": ... dispatch_model = Fast...``.
    """
    found = find_spec("unsloth")
    if found is None or found.origin is None:
        return []
    tree = ast.parse(Path(found.origin).with_name("models").joinpath("loader.py").read_text())
    types = set()
    for node in ast.walk(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Compare)):
            continue
        left, right = node.test.left, node.test.comparators[0]
        if not (isinstance(left, ast.Name) and left.id == "model_type"):
            continue
        dispatches = any(
            isinstance(target, ast.Name) and target.id == "dispatch_model"
            for statement in node.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
        )
        if dispatches and isinstance(node.test.ops[0], ast.Eq) and isinstance(right, ast.Constant):
            types.add(str(right.value))
    return sorted(types)


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # Unsloth greets on stdout
        answer = facts()
    print(json.dumps(answer))
