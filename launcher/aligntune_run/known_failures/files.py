"""Known failures of files, and of processes next to the worker."""

from __future__ import annotations

from aligntune_run.known_failures.base import Symptom

FILES: tuple[Symptom, ...] = (
    Symptom(
        "disk-full",
        (
            r"No space left on device",
            r"Disk quota exceeded",
            r"PytorchStreamWriter failed writing file",
        ),
        "the disk of the run directory, the caches or the engine is full",
        "Check `df -h` and `docker system df`, free some space (`docker system prune`), then "
        "--resume",
    ),
    Symptom(
        "cache-permission",
        (
            r"PermissionError: .{0,40}Permission denied: '/(?:cache|run-dir)",
            r"Permission denied: '.{0,200}/\.cache/",
        ),
        "you do not own a cache folder, usually because root made it in an earlier container",
        "Take ownership: `sudo chown -R $USER ~/.cache/huggingface ~/.cache/aligntune`",
    ),
    Symptom(
        "read-only",
        (r"Read-only file system: '",),
        "something tried to write outside the run directory, /cache and /tmp, which is not allowed "
        "in a container",
        "Make the reward or callback write to /tmp or to the run directory",
    ),
    Symptom(
        "open-files",
        (r"Too many open files", r"received 0 items of ancdata"),
        "the limit on open files was reached",
        "Raise it (`ulimit -n 65536`), or lower trainer_args.dataloader_num_workers",
    ),
    Symptom(
        "nccl",
        (r"ncclUnhandledCudaError|ncclSystemError|NCCL error in:",),
        "the GPUs could not communicate with each other",
        "Set NCCL_DEBUG=INFO to see why, or use one GPU with --gpus 1",
    ),
    Symptom(
        "tokenizers-fork",
        (r"huggingface/tokenizers: The current process just got forked",),
        "tokenizers were used before data loaders were forked, which can make them hang",
        "Set TOKENIZERS_PARALLELISM=false",
    ),
)
"""The most specific first."""
