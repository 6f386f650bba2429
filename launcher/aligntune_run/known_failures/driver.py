"""Known failures of the GPU, its driver, and passing it to a container."""

from __future__ import annotations

from aligntune_run.known_failures.base import Symptom

DRIVER: tuple[Symptom, ...] = (
    Symptom(
        "driver-too-old",
        (
            r"NVIDIA driver on your system is too old",
            r"CUDA driver version is insufficient for CUDA runtime version",
            r"API call is not supported in the installed CUDA driver",
        ),
        "the NVIDIA driver is older than the CUDA that the image's torch was built for",
        "Update the driver on the host (`nvidia-smi` shows it), or train with --gpus 0",
    ),
    Symptom(
        "driver-mismatch",
        (
            r"unsupported display driver / cuda driver combination",
            r"forward compatibility was attempted on non supported HW",
            r"Driver/library version mismatch",
        ),
        "the loaded NVIDIA kernel module and the driver's libraries have different versions (CUDA "
        "errors 803 and 804), usually after an update without a restart",
        "Restart the machine, and remove any cuda-compat folder from LD_LIBRARY_PATH",
    ),
    Symptom(
        "gpu-too-old-or-new",
        (
            r"no kernel image is available for execution on the device",
            r"CUDA capability sm_\d{2,3} is not compatible with the current PyTorch",
            r"too old to be supported by the triton GPU compiler",
        ),
        "the image's torch has no code for this GPU's compute capability",
        "Use another GPU, or --gpus 0; `aligntune-run doctor` shows what the images support",
    ),
    Symptom(
        "gpu-lost",
        (
            r"Failed to initialize NVML: Unknown Error",
            r"CUDA error: no CUDA-capable device is detected",
            r"CUDA unknown error - this may be due to an incorrectly set up environment",
        ),
        "the container lost its GPU; with the systemd cgroup driver, `systemctl daemon-reload` "
        "does this",
        "Resume with --resume. To prevent it, use CDI, or set "
        '"exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json',
    ),
    Symptom(
        "gpu-fell-off",
        (
            r"NVRM: Xid",
            r"GPU has fallen off the bus",
            r"CUDA error: uncorrectable ECC error encountered",
            r"GPU is lost",
        ),
        "the GPU itself failed",
        "See `sudo dmesg | grep -i xid`; reset it (`sudo nvidia-smi -r`) or restart the machine, "
        "then --resume",
    ),
    Symptom(
        "no-gpu-seen",
        (
            r"Found no NVIDIA driver on your system",
            r"Unsloth cannot find any torch accelerator\? You need a GPU",
            r"No CUDA GPUs are available",
            r"setup doesn't support bf16/gpu",
            r"libcuda\.so(?:\.1)?: cannot open shared object file",
        ),
        "the worker was given a GPU but cannot see it",
        "Try `docker run --rm --gpus all IMAGE nvidia-smi`. If that fails too, fix the NVIDIA "
        "Container Toolkit, or train with --gpus 0",
    ),
)
"""The most specific first."""
