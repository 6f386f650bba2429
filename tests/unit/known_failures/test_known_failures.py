"""Known failures are recognised in what the stacks print, and in nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aligntune.errors import (
    AligntuneError,
    DataError,
    OutOfMemoryError,
    StoppedError,
    TrainingError,
)
from aligntune_run.known_failures.explain import LIMIT, SYMPTOMS, explain, explained, tail

DOCUMENTED = Path(__file__).parents[3] / "docs" / "doctor.md"

EXCERPTS = [
    (
        "driver-too-old",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). "
        "Please update your GPU driver by downloading and installing a new version from the URL",
    ),
    (
        "driver-too-old",
        "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
    ),
    (
        "driver-mismatch",
        "UserWarning: CUDA initialization: Unexpected error from cudaGetDeviceCount(). Did you run "
        "some cuda functions before calling NumCudaDevices() that might have already set an error? "
        "Error 803: system has unsupported display driver / cuda driver combination",
    ),
    ("driver-mismatch", "Error 804: forward compatibility was attempted on non supported HW"),
    ("driver-mismatch", "Failed to initialize NVML: Driver/library version mismatch"),
    (
        "gpu-too-old-or-new",
        "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the "
        "device\nCUDA kernel errors might be asynchronously reported at some other API call",
    ),
    (
        "gpu-too-old-or-new",
        "Tesla V100-SXM2-16GB with CUDA capability sm_70 is not compatible with the current "
        "PyTorch installation.\nThe current PyTorch install supports CUDA capabilities sm_75",
    ),
    ("gpu-lost", "Failed to initialize NVML: Unknown Error"),
    ("gpu-lost", "torch.AcceleratorError: CUDA error: no CUDA-capable device is detected"),
    (
        "gpu-lost",
        "CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up "
        "environment, e.g. changing env variable CUDA_VISIBLE_DEVICES after program start.",
    ),
    ("gpu-fell-off", "NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, GPU has fallen off the bus."),
    ("no-gpu-seen", "RuntimeError: Found no NVIDIA driver on your system. Please check that you"),
    (
        "no-gpu-seen",
        "NotImplementedError: Unsloth cannot find any torch accelerator? You need a GPU.",
    ),
    ("no-gpu-seen", "RuntimeError: No CUDA GPUs are available"),
    ("no-gpu-seen", "ValueError: Your setup doesn't support bf16/gpu. You need to assign use_cpu"),
    (
        "cuda-symbols",
        "ImportError: /opt/aligntune/lib/python3.11/site-packages/torch/lib/../../nvidia/cu13/lib/"
        "libcusparse.so.12: undefined symbol: __nvJitLinkComplete_12_4, version libnvJitLink.so.12",
    ),
    (
        "cuda-symbols",
        "OSError: libcudart.so.12: cannot open shared object file: No such file or directory",
    ),
    (
        "cuda-symbols",
        "ImportError: libtorch_cuda.so: undefined symbol: ncclCommWindowRegister",
    ),
    (
        "flash-attention",
        "ImportError: /opt/x/flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so: undefined symbol: "
        "_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    ),
    ("flash-attention", "RuntimeError: FlashAttention only supports Ampere GPUs or newer."),
    ("flash-attention", "RuntimeError: FlashAttention only support fp16 and bf16 data type"),
    (
        "flash-attention",
        "ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the "
        "following error: the package for FlashAttention2 doesn't seem to be installed.",
    ),
    (
        "flash-attention",
        "FlashAttention2 requires compute capability >= 8, but found (7, 5) with compute "
        "capability 7.x",
    ),
    (
        "no-compiler",
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or "
        "set triton.knobs.build.impl.",
    ),
    (
        "no-compiler",
        "/tmp/tmpab12/main.c:5:10: fatal error: Python.h: No such file or directory",
    ),
    (
        "noexec",
        "ImportError: /tmp/tmpx1/cuda_utils.so: failed to map segment from shared object",
    ),
    ("glibc", "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.32' not found (required by a.so)"),
    (
        "glibc",
        "ImportError: /lib/x86_64-linux-gnu/libstdc++.so.6: version `CXXABI_1.3.15' not found",
    ),
    ("illegal-instruction", "Fatal Python error: Illegal instruction"),
    (
        "shm",
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient "
        "shared memory (shm).",
    ),
    (
        "shm",
        "RuntimeError: DataLoader worker (pid 117) is killed by signal: Bus error. It is possible "
        "that dataloader's workers are out of shared memory. Please try to raise your shared "
        "memory limit.",
    ),
    (
        "shm",
        "RuntimeError: unable to write to file </torch_17_3361583498_0>: No space left on device "
        "(28)",
    ),
    ("shm", "Error: failed to create shared memory file /dev/shm/nccl-zq3RtB, error No space (28)"),
    (
        "gpu-memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 23.69 GiB of which 1.21 GiB is free.",
    ),
    ("gpu-memory", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCrea"),
    ("host-memory", "[8123.4] Out of memory: Killed process 4711 (python) total-vm:94371840kB"),
    (
        "host-memory",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 68719476736 bytes. Error code 12",
    ),
    ("host-memory", "RuntimeError: DataLoader worker (pid 91) is killed by signal: Killed. "),
    ("host-memory", "terminate called after throwing an instance of 'std::bad_alloc'"),
    ("token-beyond-vocabulary", "torch.AcceleratorError: CUDA error: device-side assert triggered"),
    ("token-beyond-vocabulary", "IndexError: index out of range in self"),
    (
        "numerical",
        "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0",
    ),
    ("numerical", "{'loss': nan, 'grad_norm': 0.0, 'learning_rate': 1e-05}"),
    (
        "illegal-memory-access",
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
    ),
    (
        "triton-resources",
        "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 131072, "
        "Hardware limit: 101376. Reducing block sizes or `num_stages` may help.",
    ),
    (
        "bitsandbytes",
        "bitsandbytes library load error: Configured CUDA binary not found at /opt/x.so",
    ),
    (
        "bitsandbytes",
        "ImportError: Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install "
        "-U bitsandbytes>=0.46.1`",
    ),
    (
        "unsloth-cuda-not-linked",
        "UserWarning: Unsloth: CUDA is not linked properly.\nTry running `python -m bitsandbytes`",
    ),
    ("unsloth-needs-gpu", "NotImplementedError: Unsloth (CPU): fast_inference (vLLM) needs a GPU."),
    ("unsloth-needs-gpu", "NotImplementedError: Unsloth: load_in_4bit needs a GPU."),
    (
        "numpy-abi",
        "ValueError: numpy.dtype size changed, may indicate binary incompatibility. Expected 96 "
        "from C header, got 88 from PyObject",
    ),
    (
        "version-clash",
        "ImportError: cannot import name 'HybridCache' from 'transformers' (/opt/x/__init__.py)",
    ),
    (
        "version-clash",
        "ImportError: cannot import name 'DPOConfig' from 'trl.trainer.dpo' (unknown location)",
    ),
    (
        "version-clash",
        "ImportError: tokenizers>=0.22.0,<=0.23.0 is required for a normal functioning of this "
        "module, but found tokenizers==0.23.3.",
    ),
    ("version-clash", "RuntimeError: operator torchvision::nms does not exist"),
    (
        "hub-gated",
        "Cannot access gated repo for url https://huggingface.co/api/models/org/gated.\n"
        "Access to model org/gated is restricted.",
    ),
    ("hub-refused", "Client error '401 Unauthorized'\n401 Client Error. (Request ID: Root=1-2)"),
    ("hub-refused", "403 Client Error. (Request ID: Root=1-2;3)\n\nForbidden: no write access"),
    ("hub-rate", "HfHubHTTPError: 429 Client Error: Too Many Requests for url: https://x.test/a"),
    (
        "tls",
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate in "
        "certificate chain (_ssl.c:1016)",
    ),
    (
        "xet",
        "RuntimeError: Data processing error: CAS service error : Reqwest Error: HTTP status",
    ),
    (
        "hub-unreachable",
        "LocalEntryNotFoundError: Cannot find the requested files in the disk cache and outgoing "
        "traffic has been disabled.",
    ),
    (
        "hub-unreachable",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't "
        "find them in the cached files.",
    ),
    ("disk-full", "OSError: [Errno 28] No space left on device: '/run-dir/checkpoints'"),
    ("disk-full", "RuntimeError: PytorchStreamWriter failed writing file data/12: file write fail"),
    (
        "cache-permission",
        "PermissionError: [Errno 13] Permission denied: '/cache/huggingface/hub/models--gpt2'",
    ),
    ("read-only", "OSError: [Errno 30] Read-only file system: '/opt/rewards/log.txt'"),
    ("open-files", "OSError: [Errno 24] Too many open files: '/proc/self/fd'"),
    ("open-files", "RuntimeError: received 0 items of ancdata"),
    ("nccl", "torch.distributed.DistBackendError: NCCL error in: ../ProcessGroupNCCL.cpp:94"),
    (
        "tokenizers-fork",
        "huggingface/tokenizers: The current process just got forked, after parallelism has "
        "already been used. Disabling parallelism to avoid deadlocks...",
    ),
]

HEALTHY = Path(__file__).with_name("healthy-train.log")
"""What finished runs of both images printed, on the CPU and by every algorithm."""


@pytest.mark.parametrize(("name", "excerpt"), EXCERPTS)
def test_a_known_failure_is_the_first_explanation_of_its_log(name: str, excerpt: str) -> None:
    found = explain(f"Traceback (most recent call last):\n  ...\n{excerpt}\n")
    assert [symptom.name for symptom in found][:1] == [name]


def test_every_known_failure_has_an_excerpt() -> None:
    assert {name for name, _ in EXCERPTS} == {symptom.name for symptom in SYMPTOMS}


def test_names_are_unique() -> None:
    names = [symptom.name for symptom in SYMPTOMS]
    assert len(set(names)) == len(names)


def test_a_healthy_log_shows_nothing() -> None:
    log = HEALTHY.read_text("utf-8")
    assert len(log.splitlines()) > 10
    assert explain(log) == ()


@pytest.mark.parametrize("sign", [sign for one in SYMPTOMS for sign in one.signs])
def test_every_repeat_in_a_sign_is_bounded(sign: str) -> None:
    plain = re.sub(r"\\.", "", re.sub(r"\[[^]]*\]", "x", sign))
    assert not re.search(r"[*+]", plain)
    assert all(int(most) <= 200 for most in re.findall(r"\{\d*,?(\d+)\}", plain))
    assert not re.search(r"\{\d+,\}", plain)


@pytest.mark.parametrize("word", ["libcudart", "Permission denied: '", "Access to model ", "("])
def test_a_hostile_log_takes_bounded_work(word: str) -> None:
    assert explain(word * (4 * LIMIT // len(word))) == ()


def test_only_the_end_of_a_log_is_searched(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("CUDA out of memory\n" + "x" * LIMIT)
    assert len(tail(log)) == LIMIT
    assert explain(tail(log)) == explain(log.read_text()) == ()


def test_the_output_of_an_earlier_attempt_is_ignored(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("CUDA out of memory\n")
    since = log.stat().st_size
    log.write_text("CUDA out of memory\nNo space left on device\n")
    assert tail(log, since) == "No space left on device\n"


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "train.log") == ""


@pytest.mark.parametrize("kind", [AligntuneError, TrainingError])
def test_a_vague_failure_is_explained_and_keeps_its_class(
    kind: type[AligntuneError],
) -> None:
    told = explained(kind("it broke", "Read the log"), "Failed to find C compiler")
    assert type(told) is kind
    assert told.exit_code == kind.exit_code
    assert "it broke (Triton compiles kernels" in told.what
    assert "apt install gcc" in told.remedy


def test_the_exit_code_of_the_worker_is_kept() -> None:
    failure = TrainingError("it broke")
    failure.exit_code = 77
    assert explained(failure, "CUDA out of memory").exit_code == 77


def test_the_failure_s_own_text_is_searched_before_the_log() -> None:
    failure = TrainingError("the trainer failed: RuntimeError: received 0 items of ancdata")
    assert "open files" in explained(failure, "CUDA out of memory").what


@pytest.mark.parametrize("kind", [OutOfMemoryError, DataError, StoppedError])
def test_a_failure_with_a_remedy_is_unchanged(kind: type[AligntuneError]) -> None:
    failure = kind("what", "remedy")
    assert explained(failure, "No space left on device") is failure


def test_an_unknown_failure_is_unchanged() -> None:
    failure = TrainingError("what", "remedy")
    assert explained(failure, "something else") is failure


def test_the_docs_list_exactly_the_known_failures_with_meaning_and_remedy() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.+?) \| (.+?) \|$", DOCUMENTED.read_text("utf-8"), re.M)
    assert rows == [(one.name, one.means, one.remedy) for one in SYMPTOMS]
