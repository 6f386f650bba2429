"""What doctor finds on machines that are well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers.hosts import make_host

from aligntune_run.doctor.probe import Findings, Folder
from aligntune_run.host.types import Engine, Gpu, ImageState

GIB = 2**30


CUDA = {
    "cuda": "13.0",
    "min_driver": "580.65.06",
    "min_compute_capability": "7.5",
    "arch_list": ["sm_75", "sm_80", "sm_90"],
}


H200 = Gpu(0, "GPU-aaaa", "NVIDIA H200", (9, 0), 141 * GIB, 141 * GIB)


def image_state(backend: str, flavour: str, how: Any = "present", reason: str = "") -> ImageState:
    ref = f"aligntune-{backend}:{flavour}-1"
    return ImageState(backend, flavour, ref, "lock", "sha256:1", how, reason)


ENGINE = Engine(
    True,
    version="28.0",
    address="http+docker://localhost",
    gpu_way="nvidia",
    cgroup_driver="cgroupfs",
    root="/var/lib/docker",
    storage_free=100 * 10**9,
)


HEALTHY = Findings(
    host=make_host(
        Path("/home/u/.cache"),
        cpus=16,
        memory=64 * GIB,
        gpus=(H200,),
        driver="580.95.05",
        engine=ENGINE,
        images=(image_state("unsloth", "cuda"), image_state("trl", "cuda")),
    ),
    facts={"trl": {"flavours": {"cuda": CUDA}}, "unsloth": {"flavours": {"cuda": CUDA}}},
    environment={},
    python="3.11.2",
    no_venv="",
    modules=frozenset({"nvidia", "nvidia_uvm"}),
    driver_loaded=True,
    nodes=("nvidia-uvm", "nvidia0", "nvidiactl"),
    displays=frozenset({"NVIDIA"}),
    available=60 * GIB,
    swap=0,
    shm=32 * GIB,
    folders=(Folder("our cache", Path("/home/u/.cache/aligntune"), True, 100 * 10**9),),
    token_mode=None,
    endpoint="https://huggingface.co",
    hub="",
    bundle=None,
    no_bundles=(),
    no_bridge="",
    no_builder="",
    index=False,
    listed=(),
    containers=(),
    engine={},
)


def on_host(findings: Findings = HEALTHY, **values: Any) -> Findings:
    return replace(findings, host=replace(findings.host, **values))
