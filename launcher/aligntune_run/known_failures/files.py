"""Known failures: files, and processes beside the worker."""

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
        "a disk is full: the run directory's, the caches' or the engine's",
        "See `df -h` and `docker system df`; free some (`docker system prune`), then --resume",
    ),
    Symptom(
        "cache-permission",
        (
            r"PermissionError: .{0,40}Permission denied: '/(?:cache|run-dir)",
            r"Permission denied: '.{0,200}/\.cache/",
        ),
        "a cache is not the caller's, most often made by root in an earlier container",
        "Give it back: `sudo chown -R $USER ~/.cache/huggingface ~/.cache/aligntune`",
    ),
    Symptom(
        "read-only",
        (r"Read-only file system: '",),
        "something writes outside the run directory, /cache and /tmp, which a container may not",
        "Have the reward or callback write to /tmp, or to the run directory",
    ),
    Symptom(
        "open-files",
        (r"Too many open files", r"received 0 items of ancdata"),
        "the limit of open files is reached",
        "Raise it (`ulimit -n 65536`), or lower trainer_args.dataloader_num_workers",
    ),
    Symptom(
        "nccl",
        (r"ncclUnhandledCudaError|ncclSystemError|NCCL error in:",),
        "the GPUs could not talk to each other",
        "Set NCCL_DEBUG=INFO for the reason; use one GPU with --gpus 1",
    ),
    Symptom(
        "tokenizers-fork",
        (r"huggingface/tokenizers: The current process just got forked",),
        "tokenizers were used before data loaders were forked, which can make them wait for ever",
        "Set TOKENIZERS_PARALLELISM=false",
    ),
)
"""The most telling first."""
