"""Optional packages: which values of a request need one, and which are installed.

Does not import torch. The host reads what an image publishes in ``facts.json``; the worker looks at
its own environment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from aligntune.errors import SpecError
from aligntune.spec.run_spec import RunSpec

MODULES = {
    "apollo-torch": "apollo_torch",
    "bitsandbytes": "bitsandbytes",
    "deepspeed": "deepspeed",
    "flash-attn": "flash_attn",
    "galore-torch": "galore_torch",
    "grokadamw": "grokadamw",
    "kernels": "kernels",
    "liger-kernel": "liger_kernel",
    "lomo-optim": "lomo_optim",
    "schedulefree": "schedulefree",
    "torch-npu": "torch_npu",
    "torch-optimi": "optimi",
    "torch-xla": "torch_xla",
    "torchao": "torchao",
    "torchdistx": "torchdistx",
    "vllm": "vllm",
}
"""Package -> the module that it provides."""

OPTIMIZERS = {
    **dict.fromkeys(("apollo_adamw", "apollo_adamw_layerwise"), "apollo-torch"),
    **dict.fromkeys(("galore_adafactor", "galore_adafactor_layerwise"), "galore-torch"),
    **dict.fromkeys(("galore_adamw", "galore_adamw_layerwise"), "galore-torch"),
    **dict.fromkeys(("galore_adamw_8bit", "galore_adamw_8bit_layerwise"), "galore-torch"),
    **dict.fromkeys(("lomo", "adalomo"), "lomo-optim"),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    **dict.fromkeys(
        ("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"), "schedulefree"
    ),
    "adamw_anyprecision": "torchdistx",
    "adamw_torch_npu_fused": "torch-npu",
    "adamw_torch_xla": "torch-xla",
    "grokadamw": "grokadamw",
    "stable_adamw": "torch-optimi",
}
"""Optimizer -> the package that provides it (transformers/trainer_optimizer.py)."""

ATTENTION = {"flash_attention_2": "flash-attn"}
"""Attention implementation -> its package."""

ARGUMENTS = {
    "use_liger_kernel": ("liger-kernel", "Remove it: TRL's own loss does not build full logits"),
    "use_kernels": ("kernels", "Remove it"),
    "fast_inference": ("vllm", "Remove it"),
    "float8_kv_cache": ("vllm", "Remove it"),
    "qat_scheme": ("torchao", "Remove it"),
}
"""Trainer or model argument -> the package that it needs, and what to do instead."""


class Need(NamedTuple):
    """A value of a request that needs a package."""

    package: str
    value: str
    remedy: str


def needs(spec: RunSpec, backend: str) -> Iterator[Need]:
    """Every optional package that a request needs on ``backend``."""
    optimizer, attention = spec.training.optimizer, spec.model.attention
    if optimizer in OPTIMIZERS:
        value = f"training.optimizer={optimizer}"
        yield Need(OPTIMIZERS[optimizer], value, "Use adamw_torch_fused, or adamw_8bit")
    if attention in ATTENTION:
        value = f"model.attention={attention}"
        yield Need(ATTENTION[attention], value, "Use sdpa, which has similar kernels")
    own: Mapping[str, Any] = spec.of_backend(backend)
    for section, given in (("trainer_args", spec.trainer_args), (backend, own)):
        for name in given.keys() & ARGUMENTS.keys():
            if given[name]:
                package, remedy = ARGUMENTS[name]
                shown = str(given[name]).lower() if given[name] is True else given[name]
                yield Need(package, f"{section}.{name}={shown}", remedy)


def missing(spec: RunSpec, backend: str, present: Collection[str]) -> Need | None:
    """The first package that a request needs and that is not in ``present``."""
    return next((need for need in needs(spec, backend) if need.package not in present), None)


def present(find: Callable[[str], Any] = find_spec) -> list[str]:
    """Those of :data:`MODULES` that this environment has, sorted."""
    return sorted(name for name, module in MODULES.items() if find(module) is not None)


def require_packages(spec: RunSpec, backend: str) -> None:
    """Refuse a request that needs a package which is not installed.

    Raises:
        SpecError: with the value and the package.
    """
    need = missing(spec, backend, present())
    if need is not None:
        raise SpecError(
            f"{need.value} needs the package {need.package}, which is not installed", need.remedy
        )
