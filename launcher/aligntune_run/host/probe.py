"""The host: GPUs, driver, engine, images, caches. Probed once, then plain data.

A failure while probing is data with a reason. It never raises, except for a caller without a home
folder for caches. :mod:`aligntune_run.host.gpus` asks for GPUs, and
:mod:`aligntune_run.host.resources` for the rest of the hardware.
"""

from __future__ import annotations

import os
import platform

from aligntune_run.host.caches import cache_dir, hub_caches, token_file
from aligntune_run.host.gpus import probe_gpus
from aligntune_run.host.resources import (
    computes_bf16,
    cpu_count,
    disk_free,
    memory_total,
    other_gpu,
)
from aligntune_run.host.types import Engine, Host, ImageState

HUB_VARIABLES = (
    "HF_ENDPOINT",
    "HF_HUB_DISABLE_XET",
    "HF_HUB_OFFLINE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""Variables of the caller that a container with the network gets."""

WORKER_VARIABLES = ("OMP_NUM_THREADS",)
"""Variables of the caller that every container gets."""


def probe(engine: Engine, images: tuple[ImageState, ...]) -> Host:
    """This machine as plain data; the engine and its images are asked by those who talk to it."""
    gpus = probe_gpus()
    cache = cache_dir(os.environ)
    hub, datasets = hub_caches(os.environ)
    return Host(
        system=platform.system(),
        machine=platform.machine(),
        uid=os.getuid(),
        gid=os.getgid(),
        cpus=cpu_count(),
        memory=memory_total(),
        gpus=gpus.found,
        gpu_note=gpus.note,
        driver=gpus.driver,
        other_gpu=None if gpus.found else other_gpu(),
        engine=engine,
        images=images,
        cache=cache,
        hub_cache=hub,
        datasets_cache=datasets,
        token=token_file(os.environ),
        environment={
            name: os.environ[name]
            for name in (*HUB_VARIABLES, *WORKER_VARIABLES)
            if name in os.environ
        },
        gpu_failed=gpus.failed,
        driver_cuda=gpus.cuda,
        bf16=computes_bf16(),
        cache_free=disk_free(cache),
    )
