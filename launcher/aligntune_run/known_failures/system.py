"""Known failures of system libraries and memory."""

from __future__ import annotations

from aligntune_run.known_failures.base import Symptom

SYSTEM: tuple[Symptom, ...] = (
    Symptom(
        "cuda-symbols",
        (
            r"undefined symbol: {1,3}(?:__)?(?:nvJitLink|cu(?:da|blas|dnn|sparse|solver|fft)|nccl)",
            r"lib(?:cudart|cublas|cublasLt|cudnn|cusparse|nvJitLink|nccl)[\w.-]{0,40}: {1,3}"
            r"(?:undefined symbol|cannot open shared object|version `)",
        ),
        "two versions of the CUDA libraries are mixed, for example because of LD_LIBRARY_PATH or a "
        "package added to the image",
        "Unset LD_LIBRARY_PATH (--engine process), or remove the package from the derived image",
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
        "Flash Attention is missing, is built for another torch, or does not support this GPU, "
        "model or precision",
        "Set model.attention=auto, which uses PyTorch's own, or remove flash-attn from the derived "
        "image",
    ),
    Symptom(
        "no-compiler",
        (
            r"Failed to find C compiler",
            r"Python\.h: No such file or directory",
            r"InvalidCxxCompiler|No working C\+\+ compiler found",
        ),
        "Triton compiles kernels when training starts, and found no C compiler or Python headers",
        "Install them (`sudo apt install gcc libc6-dev python3-dev`); our images have them",
    ),
    Symptom(
        "noexec",
        (r"failed to map segment from shared object",),
        "a compiled library is on a file system mounted noexec, such as /tmp",
        "Set TMPDIR and ALIGNTUNE_CACHE_DIR to folders on a file system without noexec",
    ),
    Symptom(
        "glibc",
        (
            r"version `GLIBC_2\.\d{1,3}' not found",
            r"version `(?:GLIBCXX|CXXABI)_[\d.]{1,12}' not found",
        ),
        "this system's C or C++ library is too old for the locked packages",
        "Use --engine docker, since images have their own; if you use conda, deactivate it",
    ),
    Symptom(
        "illegal-instruction",
        (r"Illegal instruction", r"SIGILL\b"),
        "the processor lacks an instruction that a library uses, usually AVX2",
        "Use another machine, or set the virtual machine to pass through the host's CPU model",
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
        "Raise --set memory=... (half of it is /dev/shm), add --shm-size 8g to your own docker "
        "run, or set trainer_args.dataloader_num_workers=0",
    ),
    Symptom(
        "gpu-memory",
        (
            r"CUDA out of memory",
            r"CUDA error: out of memory",
            r"torch\.(?:cuda\.)?OutOfMemoryError",
            r"CUBLAS_STATUS_ALLOC_FAILED",
        ),
        "the GPU ran out of memory",
        "Lower --batch-size or --max-length, set training.gradient_checkpointing=true, or use "
        "--lora-rank or --load-in-4bit; `nvidia-smi` shows what else uses it",
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
        "the machine or the container ran out of memory",
        "Lower --batch-size, or raise --set memory=...; `sudo dmesg` shows what the kernel killed",
    ),
)
"""The most specific first."""
