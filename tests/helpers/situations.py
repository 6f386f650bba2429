"""Requests, hosts and models for the choice of a backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers.hosts import make_host

from aligntune.algorithms import ALGORITHMS
from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune_run.host.types import Engine, Gpu, Host, ImageState
from aligntune_run.models.facts import ModelFacts, of_config
from aligntune_run.plan import Choice
from aligntune_run.selection.select import choose

FACTS: dict[str, dict[str, Any]] = {
    "trl": {
        "versions": {"transformers": "5.23.0"},
        "flavours": {
            "cpu": {"image_size": 2_100_000_000},
            "cuda": {
                "cuda": "13.0",
                "min_driver": "580.65.06",
                "min_compute_capability": "7.5",
                "arch_list": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
                "image_size": 6_100_000_000,
            },
        },
        "model_types": ["gpt2", "llama", "qwen3", "mamba"],
        "trainer_args": {
            **{row.config: ["beta"] for row in ALGORITHMS.values()},
            "SFTConfig": ["neftune_noise_alpha", "torch_empty_cache_steps", "use_liger_kernel"],
        },
        "model_args": ["use_kernels"],
        "packages": ["bitsandbytes"],
        "optimizers": ["adamw_torch_fused", "adamw_torch_8bit", "galore_adamw", "sgd"],
        "schedules": ["linear", "cosine"],
    },
}

GIB = 2**30
H200 = Gpu(0, "GPU-aaaa", "NVIDIA H200", (9, 0), 141 * GIB, 141 * GIB)
SECOND = replace(H200, index=1, uuid="GPU-bbbb")
V100 = Gpu(0, "GPU-cccc", "Tesla V100", (7, 0), 16 * GIB, 16 * GIB)
T4 = replace(V100, name="Tesla T4", capability=(7, 5))
GPUS = {
    "h200": H200,
    "second": SECOND,
    "v100": V100,
    "t4": T4,
    "l4": Gpu(0, "GPU-dddd", "NVIDIA L4", (8, 9), 24 * GIB, 24 * GIB),
    "b300": Gpu(0, "GPU-eeee", "NVIDIA B300", (10, 3), 288 * GIB, 288 * GIB),
    "thor": Gpu(0, "GPU-ffff", "NVIDIA Thor", (11, 0), 128 * GIB, 128 * GIB),
    "slice": Gpu(0, "MIG-aaaa", "NVIDIA H200 MIG 1g.18gb", (9, 0), 18 * GIB, 18 * GIB),
    "leased": replace(H200, leased="run-1"),
    "used": replace(H200, users=("python (pid 7)",)),
    "full": replace(H200, users=("python (pid 7)",), free=4 * GIB),
}


def image(backend: str, flavour: str, how: Any = "present", reason: str = "") -> ImageState:
    ref = f"aligntune-{backend}:{flavour}"
    digest = f"sha256:{backend}{flavour}" if how == "present" else None
    return ImageState(backend, flavour, ref, f"lock-{backend}-{flavour}", digest, how, reason)


TRL_CPU, TRL_CUDA, UNSLOTH = image("trl", "cpu"), image("trl", "cuda"), image("unsloth", "cuda")

CPU_MACHINE = make_host(
    Path("/home/u/.cache"),
    memory=16 * GIB,
    gpu_note="NVML finds no GPU",
    engine=Engine(True, kind="docker", version="28.0", gpu_way="nvidia", memory=16 * GIB),
    images=(TRL_CPU, TRL_CUDA, UNSLOTH),
)
GPU_MACHINE = replace(CPU_MACHINE, gpus=(H200,), gpu_note="", driver="580.65.06")


def llama(hidden: int, layers: int, intermediate: int) -> ModelFacts:
    """A model of Llama's making with a vocabulary of 32,000, as its files tell."""
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "num_attention_heads": hidden // 128,
        "vocab_size": 32_000,
        "max_position_embeddings": 4096,
        "dtype": "bfloat16",
    }
    attention, feed_forward = ("q", "k", "v", "o"), ("gate", "up", "down")
    linear = {f"{name}_proj": 2 * hidden * layers for name in attention}
    linear |= {f"{name}_proj": (hidden + intermediate) * layers for name in feed_forward}
    parameters = layers * (4 * hidden**2 + 3 * hidden * intermediate) + 2 * 32_000 * hidden
    known = of_config(config, tied=False)
    return replace(known, parameters=parameters, linear=tuple(linear.items()))


MODELS = {"7b": llama(4096, 32, 11_008), "70b": llama(8192, 80, 28_672)}


def spec_of(*assignments: str) -> RunSpec:
    needed = {"algorithm": "sft", "model": "org/model", "dataset": "org/data"}
    return resolve([Layer("test", needed), *map(from_assignment, assignments)]).spec


def chosen(spec: RunSpec, host: Host, model: ModelFacts) -> Choice:
    return choose(spec, host, model, FACTS).require()
