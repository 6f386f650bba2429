"""Known failures of training itself: kernels, numbers, and incompatible packages."""

from __future__ import annotations

from aligntune_run.known_failures.base import Symptom

STACK: tuple[Symptom, ...] = (
    Symptom(
        "token-beyond-vocabulary",
        (
            r"device-side assert triggered",
            r"vectorized_gather_kernel.{0,80}index out of bounds",
            r"srcIndex < srcSelectDimSize",
            r"IndexError: index out of range in self",
        ),
        "an index was out of bounds, usually because a token is outside the model's vocabulary or "
        "a row is longer than its context",
        "Use the model's own tokenizer, lower --max-length, or run with --gpus 0 to see the line",
    ),
    Symptom(
        "numerical",
        (
            r"probability tensor contains either `inf`, `nan` or element < 0",
            r"'(?:loss|grad_norm)': '?nan",
            r"svd.{0,60}failed to converge",
        ),
        "the loss or the weights became NaN or infinite",
        "Lower --lr, set training.precision=bf16 or fp32, and look for empty or unusual rows",
    ),
    Symptom(
        "illegal-memory-access",
        (
            r"CUDA error: an illegal memory access was encountered",
            r"CUDA error: unspecified launch failure",
        ),
        "a kernel accessed invalid memory, because of a bug in the kernel or a faulty GPU",
        "Try --backend trl; if that fails too, see `sudo dmesg | grep -i xid`",
    ),
    Symptom(
        "triton-resources",
        (r"out of resource: shared memory",),
        "a compiled kernel needs more shared memory than this GPU has",
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
        "Unsloth cannot find libcuda on the loader's path",
        "Run `sudo ldconfig` on the host (--engine process), or use --engine docker",
    ),
    Symptom(
        "unsloth-needs-gpu",
        (r"NotImplementedError: Unsloth.{0,80}needs a GPU",),
        "this Unsloth option works only on a GPU",
        "Use --backend trl, or leave the option out",
    ),
    Symptom(
        "numpy-abi",
        (
            r"numpy\.(?:dtype|ufunc) size changed",
            r"A module that was compiled using NumPy 1\.x cannot be run in",
            r"numpy\.core\.multiarray failed to import",
        ),
        "a package was built for another version of numpy",
        "Remove the packages you added to the image or venv; the locked versions are compatible",
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
        "the environment has packages with incompatible versions",
        "Use the pinned image (leave out --image), or remove the packages you added",
    ),
)
"""The most specific first."""
