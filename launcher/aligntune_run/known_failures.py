"""Known failures of the stacks: what they look like in a log, what they mean, what mends them.

The signs are the words of the pinned stacks and of the libraries below them. Each is matched within
one line, and repeats only so often as it says: so the work is a small multiple of the log's length,
whatever the log holds. The table goes from what tells most to what tells least.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aligntune.errors import AligntuneError, EngineError, ImageError, TrainingError

LIMIT = 2**20
"""How much of the end of a log is looked at, in bytes or characters."""

VAGUE = (AligntuneError, TrainingError, ImageError, EngineError)
"""Failures of which a log may tell more than they do; all others already say what to do."""


@dataclass(frozen=True)
class Symptom:
    """A known failure.

    Attributes:
        name: short and stable, for programs.
        signs: patterns, any of which shows it; each repeats only within bounds.
        means: what has happened, as half a sentence.
        mend: what to do, as an imperative, with the command where there is one.
    """

    name: str
    signs: tuple[str, ...]
    means: str
    mend: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{sign})" for sign in self.signs))


def explain(log: str) -> tuple[Symptom, ...]:
    """The known failures that the end of a log shows, the most telling first."""
    end = log[-LIMIT:]
    return tuple(symptom for symptom in SYMPTOMS if symptom.pattern.search(end))


def explained(failure: AligntuneError, log: str) -> AligntuneError:
    """A failure that says little, with what the log says it is; any other as it is.

    Class and exit code stay: the log explains what happened, and does not judge whose fault it was.

    Args:
        failure: what the run failed of.
        log: the end of everything that was printed.
    """
    if type(failure) not in VAGUE:
        return failure
    found = explain(failure.what) or explain(log)
    if not found:
        return failure
    told = type(failure)(
        f"{failure.what} ({found[0].means})", f"{found[0].mend}. All of it is in train.log"
    )
    told.exit_code = failure.exit_code
    return told


def tail(log: Path, since: int = 0) -> str:
    """The last :data:`LIMIT` bytes of a log; empty where there is none that can be read.

    Args:
        log: the file.
        since: offset where it begins to matter, as an earlier attempt wrote what is before.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LIMIT, since))
            return file.read(LIMIT).decode(errors="replace")
    except OSError:
        return ""


SYMPTOMS: tuple[Symptom, ...] = (
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
        "the loaded NVIDIA kernel module and the driver's libraries are of different versions "
        "(CUDA errors 803 and 804), most often since an update without a restart",
        "Restart the machine, and drop any cuda-compat folder from LD_LIBRARY_PATH",
    ),
    Symptom(
        "gpu-too-old-or-new",
        (
            r"no kernel image is available for execution on the device",
            r"CUDA capability sm_\d{2,3} is not compatible with the current PyTorch",
            r"too old to be supported by the triton GPU compiler",
        ),
        "the image's torch has no code for this GPU's compute capability",
        "Use another GPU, or --gpus 0; `aligntune-run doctor` says what the images support",
    ),
    Symptom(
        "gpu-lost",
        (
            r"Failed to initialize NVML: Unknown Error",
            r"CUDA error: no CUDA-capable device is detected",
            r"CUDA unknown error - this may be due to an incorrectly set up environment",
        ),
        "the container has lost its GPU, as a daemon-reload of systemd takes it where the engine's "
        "cgroup driver is systemd",
        "Go on with --resume; for good, use CDI, or set "
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
        "the worker sees no GPU although it was given one",
        "See whether `docker run --rm --gpus all IMAGE nvidia-smi` works; else mend the NVIDIA "
        "Container Toolkit, or train with --gpus 0",
    ),
    Symptom(
        "cuda-symbols",
        (
            r"undefined symbol: {1,3}(?:__)?(?:nvJitLink|cu(?:da|blas|dnn|sparse|solver|fft)|nccl)",
            r"lib(?:cudart|cublas|cublasLt|cudnn|cusparse|nvJitLink|nccl)[\w.-]{0,40}: {1,3}"
            r"(?:undefined symbol|cannot open shared object|version `)",
        ),
        "CUDA libraries of two versions have been mixed, as by LD_LIBRARY_PATH or a package that "
        "was added to the image",
        "Unset LD_LIBRARY_PATH (--engine process), or take the package out of the derived image",
    ),
    Symptom(
        "flash-attention",
        (
            r"flash_attn[\w.-]{0,80}\.so: undefined symbol",
            r"FlashAttention only supports? ",
            r"package for FlashAttention\d? doesn't seem to be installed",
            r"FlashAttention\d? is not available on",
            r"FlashAttention\d? requires compute capability",
            r"does not support Flash Attention \d",
            r"No module named 'flash_attn",
        ),
        "Flash Attention was asked for and is not there, is built for another torch, or does not "
        "take this GPU, model or precision",
        "Leave model.attention at auto, which is PyTorch's own, or take flash-attn out of the "
        "derived image",
    ),
    Symptom(
        "no-compiler",
        (
            r"Failed to find C compiler",
            r"Python\.h: No such file or directory",
            r"InvalidCxxCompiler|No working C\+\+ compiler found",
        ),
        "Triton compiles kernels when training starts, and finds no C compiler or Python headers",
        "Install them (`sudo apt install gcc libc6-dev python3-dev`); our images have them",
    ),
    Symptom(
        "noexec",
        (r"failed to map segment from shared object",),
        "a compiled library lies where nothing may be executed, as in a /tmp mounted noexec",
        "Set TMPDIR and ALIGNTUNE_CACHE_DIR to folders on a file system with exec",
    ),
    Symptom(
        "glibc",
        (
            r"version `GLIBC_2\.\d{1,3}' not found",
            r"version `(?:GLIBCXX|CXXABI)_[\d.]{1,12}' not found",
        ),
        "this system's C or C++ library is older than the packages of the lock need",
        "Use --engine docker: an image brings its own; with conda, deactivate it",
    ),
    Symptom(
        "illegal-instruction",
        (r"Illegal instruction", r"SIGILL\b"),
        "the processor lacks an instruction that a library was built with, most often AVX2",
        "Use another machine, or have the virtual machine pass its host's CPU model through",
    ),
    Symptom(
        "shm",
        (
            r"[Uu]nexpected bus error encountered in worker",
            r"DataLoader worker \(pid.{0,20}\) is killed by signal: Bus error",
            r"dataloader's workers are out of shared memory",
            r"unable to (?:write to|open|resize|mmap).{0,40}/torch_",
            r"failed to create shared memory file",
            r"Error while creating shared memory segment",
        ),
        "shared memory (/dev/shm) is too small",
        "Raise --set memory=... (half of it is /dev/shm); with docker run by hand give "
        "--shm-size 8g; or set trainer_args.dataloader_num_workers=0",
    ),
    Symptom(
        "gpu-memory",
        (
            r"CUDA out of memory",
            r"CUDA error: out of memory",
            r"torch\.(?:cuda\.)?OutOfMemoryError",
            r"CUBLAS_STATUS_ALLOC_FAILED",
        ),
        "the GPU has too little memory left",
        "Lower --batch-size or --max-length, set training.gradient_checkpointing=true, or use "
        "--lora-rank or --load-in-4bit; `nvidia-smi` shows who else uses it",
    ),
    Symptom(
        "host-memory",
        (
            r"Out of memory: Killed process",
            r"DefaultCPUAllocator: (?:can't allocate|not enough) memory",
            r"DataLoader worker \(pid.{0,20}\) is killed by signal: Killed",
            r"\(SIGKILL\) received by PID",
            r"std::bad_alloc",
            r"Cannot allocate memory",
        ),
        "the machine, or the container's limit, had too little memory",
        "Lower --batch-size, or raise --set memory=...; `sudo dmesg` shows what the kernel ended",
    ),
    Symptom(
        "token-beyond-vocabulary",
        (
            r"device-side assert triggered",
            r"vectorized_gather_kernel.{0,80}index out of bounds",
            r"srcIndex < srcSelectDimSize",
            r"IndexError: index out of range in self",
        ),
        "an index was out of bounds, most often a token beyond the model's vocabulary or a row "
        "longer than its context",
        "Use the model's own tokenizer, lower --max-length, and run with --gpus 0 for the line",
    ),
    Symptom(
        "numerical",
        (
            r"probability tensor contains either `inf`, `nan` or element < 0",
            r"'(?:loss|grad_norm)': '?nan",
            r"svd.{0,60}failed to converge",
        ),
        "the numbers went out of range: the loss or the weights are no numbers any more",
        "Lower --lr, set training.precision=bf16 or fp32, and look for empty or odd rows",
    ),
    Symptom(
        "illegal-memory-access",
        (
            r"CUDA error: an illegal memory access was encountered",
            r"CUDA error: unspecified launch failure",
        ),
        "a kernel read or wrote where it may not, by a bug in a kernel or a GPU that fails",
        "Try --backend trl; if that fails too, see `sudo dmesg | grep -i xid`",
    ),
    Symptom(
        "triton-resources",
        (r"out of resource: shared memory",),
        "a compiled kernel needs more of the GPU's shared memory than this GPU has",
        "Use --backend trl, or lower --max-length",
    ),
    Symptom(
        "bitsandbytes",
        (
            r"bitsandbytes library load error",
            r"bitsandbytes native library did not load",
            r"CUDA binary not found",
            r"(?:4|8)-bit quantization requires bitsandbytes",
            r"bitsandbytes was compiled without",
        ),
        "bitsandbytes has no library for this CUDA version or this GPU",
        "Leave out --load-in-4bit and 8-bit optimizers, unset BNB_CUDA_VERSION, or use our image",
    ),
    Symptom(
        "unsloth-cuda-not-linked",
        (r"Unsloth: CUDA is not linked properly",),
        "Unsloth finds no libcuda where the loader looks",
        "Run `sudo ldconfig` on the host (--engine process), or use --engine docker",
    ),
    Symptom(
        "unsloth-needs-gpu",
        (r"NotImplementedError: Unsloth.{0,80}needs a GPU",),
        "what was asked of Unsloth works on a GPU only",
        "Use --backend trl, or leave the option out",
    ),
    Symptom(
        "numpy-abi",
        (
            r"numpy\.(?:dtype|ufunc) size changed",
            r"A module that was compiled using NumPy 1\.x cannot be run in",
            r"numpy\.core\.multiarray failed to import",
        ),
        "a package was built for another numpy",
        "Take what was added to the image or the venv out again: the lock's versions fit",
    ),
    Symptom(
        "version-clash",
        (
            r"ImportError: cannot import name .{1,80} from '(?:transformers|trl|unsloth|unsloth_zoo"
            r"|torchao|bitsandbytes|peft|accelerate|datasets|huggingface_hub|pydantic|numpy|torch)",
            r"is required for a normal functioning of this module, but found",
            r"requires transformers ?[<>=~]{1,2}",
            r"operator torchvision::nms does not exist",
            r"torch.{0,20}torchvision.{0,20}compiled with different CUDA",
        ),
        "packages of versions that do not fit have been mixed",
        "Run the pinned image (leave out --image), or take what was added to it out again",
    ),
    Symptom(
        "hub-gated",
        (
            r"Cannot access gated repo",
            r"You are trying to access a gated repo",
            r"Access to (?:model|dataset) .{1,120} is restricted",
        ),
        "the repository is gated, and the token has no access",
        "Accept its terms on the hub, log in (`hf auth login`), and run again",
    ),
    Symptom(
        "hub-refused",
        (
            r"40[13] Client Error",
            r"Invalid credentials in Authorization header",
            r"Repository Not Found for url",
        ),
        "the hub refused: a private or misspelt repository, or a token without the right",
        "Check the name, and `hf auth whoami`",
    ),
    Symptom(
        "hub-rate",
        (r"429 Client Error|Too Many Requests for url|rate limit(?:ed)? (?:reached|exceeded)",),
        "the hub limits how much it is asked, and more so without a token",
        "Log in (`hf auth login`), wait some minutes, and run again",
    ),
    Symptom(
        "tls",
        (r"CERTIFICATE_VERIFY_FAILED", r"self[- ]signed certificate in certificate chain"),
        "a certificate is not trusted, as behind a proxy that inspects TLS",
        "Point SSL_CERT_FILE at the proxy's CA bundle; containers are given it too",
    ),
    Symptom(
        "xet",
        (r"CAS service error", r"hf_xet.{0,80}(?:Error|error)", r"XetDownloadError"),
        "the hub's Xet storage could not be read",
        "Run again with HF_HUB_DISABLE_XET=1",
    ),
    Symptom(
        "hub-unreachable",
        (
            r"outgoing traffic has been disabled",
            r"We couldn't connect to '.{1,120}' to load the files",
            r"OfflineModeIsEnabled|offline mode is enabled",
            r"Temporary failure in name resolution",
        ),
        "a file of the hub is not in the cache, and training has no network",
        "Name what is read in the spec, so that it is fetched first; check the network "
        "(`aligntune-run doctor`)",
    ),
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
"""Every known failure, the most telling first; docs/doctor.md has them as a table."""
