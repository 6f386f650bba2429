"""Rules that are judged for each backend."""

from __future__ import annotations

from aligntune.algorithms import ALGORITHMS, TITLES
from aligntune.errors import HardwareError, ImageError, ModelError, OutOfMemoryError, SpecError
from aligntune.packages import missing, needs
from aligntune.spec.suggest import nearest
from aligntune_run.selection.rules.base import Candidate, Rule, Said, either
from aligntune_run.selection.rules.memory import NOTHING_FITS, fits

FP8_CAPABILITY = (9, 0)

QUANTIZERS = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "aqlm": "aqlm",
    "compressed-tensors": "compressed-tensors",
    "eetq": "eetq",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "vptq": "vptq",
}
"""How a checkpoint may be quantized already -> the package it takes, which no image has."""


def _algorithm(at: Candidate) -> Said:
    row = ALGORITHMS[at.spec.algorithm]
    passed = at.backend in row.backends
    word = "runs" if passed else "does not run"
    return either(passed, f"{row.title} {word} on {TITLES[at.backend]}")


def _gpu(at: Candidate) -> Said | None:
    if at.backend != "unsloth":
        return None
    if at.gpus:
        return Said("pass", f"it gets {at.gpus[0].name}")
    why = "--gpus 0" if at.spec.gpus == "0" else at.host.gpu_note
    return Said("fail", f"it needs an NVIDIA GPU: {why}".removesuffix(": "))


def _driver(at: Candidate) -> Said | None:
    if not at.gpus or at.host.driver is None:
        return None
    flavour = at.facts["flavours"]["cuda"]
    least = str(flavour["min_driver"])
    newest = f" (CUDA {at.host.driver_cuda})" if at.host.driver_cuda else ""
    return either(
        _numbers(at.host.driver) >= _numbers(least),
        f"driver {at.host.driver}{newest}; the image's CUDA {flavour['cuda']} needs {least} "
        "or newer",
    )


def _capability(at: Candidate) -> Said | None:
    if not at.gpus:
        return None
    flavour = at.facts["flavours"]["cuda"]
    least, made_for = str(flavour["min_compute_capability"]), list(flavour["arch_list"])
    for gpu in at.gpus:
        told = f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        if gpu.capability < _numbers(least):
            return Said("fail", f"{told}; needs {least}")
        if not any(runs(arch, gpu.capability) for arch in made_for):
            return Said(
                "fail",
                f"{told}; the image's torch is made for {', '.join(made_for)}",
                "Use another GPU, or --gpus 0",
            )
    return Said("pass", f"{told}; needs {least}")


def runs(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code for ``sm_86`` (this major version, this minor one or newer), ``sm_90a`` (exactly
    this) or ``compute_80`` (compiled anew on anything newer) runs on a GPU.

    https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc/#gpu-feature-list
    """
    kind, _, number = arch.partition("_")
    major, minor = divmod(int(number.rstrip("af")), 10)
    if number.endswith("a"):
        return capability == (major, minor)
    if kind == "compute":
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor


def _model(at: Candidate) -> Said | None:
    if at.model is None:
        return None
    kind = at.model.model_type
    if at.model.vision:
        return Said("fail", f"{kind} is a vision model, which is not supported")
    if kind is None:
        if at.backend != "unsloth":
            return None  # TRL takes what transformers takes; the worker says if it does not
        why = f" ({at.model.note})" if at.model.note else ""
        return Said(
            "fail",
            f"what type {at.spec.model.name} is of is not known before it is fetched{why}",
            "Use --backend trl",
        )
    if kind not in at.facts["model_types"]:
        if at.backend == "trl" and at.model.custom_code and at.spec.model.trust_remote_code:
            return Said("pass", f"{kind} is loaded by the code that its repository carries")
        version = at.facts["versions"]["transformers"]
        own_code = "; its repository carries code for it" if at.model.custom_code else ""
        return Said(
            "fail",
            f"its transformers {version} has no causal {kind!r}{own_code}",
            "Set model.trust_remote_code=true if you trust that" if own_code else "",
        )
    if at.backend == "unsloth":
        path = "fast" if kind in at.facts["fast_model_types"] else "general"
        return Said("pass", f"{kind} takes Unsloth's {path} path")
    return Said("pass", f"{kind} is a causal model that transformers knows")


def _quantization(at: Candidate) -> Said | None:
    wanted = at.spec.model.quantization
    method = at.model.quantized if at.model else None
    if method is None:
        return None if wanted == "none" else Said("pass", f"{wanted} by bitsandbytes")
    if wanted != "none" and method != "bitsandbytes":
        return Said("fail", f"its weights are quantized by {method} already, so not to {wanted}")
    if at.spec.adapter.type == "none":
        return Said(
            "fail",
            f"its weights are quantized by {method}, and such cannot be trained in full",
            "Train an adapter, as with --lora-rank 16, or take the weights it was made from",
        )
    package = QUANTIZERS.get(method)
    if package and not at.derived:
        return Said("fail", f"its weights are quantized by {method}, and no image has {package}")
    return Said("pass", f"its weights are quantized by {method}")


def _precision(at: Candidate) -> Said:
    asked = at.spec.training.precision
    bf16 = at.bf16
    other = "fp16" if at.gpus else "fp32"
    taken = ("bf16" if bf16 else other) if asked == "auto" else asked
    where = "this GPU" if at.gpus else "this CPU"
    if asked == "fp16" and not at.gpus:
        return Said("fail", "fp16 is not for a CPU", "Use training.precision=bf16 or fp32")
    if asked == "bf16" and not bf16:
        if at.gpus:
            return Said("fail", f"{where} does not compute in bf16", "Use training.precision=fp16")
        return Said("warn", f"{where} computes bf16 slowly", "Use training.precision=fp32")
    if at.backend == "unsloth" and at.spec.unsloth.get("load_in_fp8"):
        slow = [gpu for gpu in at.gpus if gpu.capability < FP8_CAPABILITY]
        if slow:
            return Said("fail", "unsloth.load_in_fp8 needs compute capability 9.0", "Leave it out")
    return Said("pass", f"{taken} on {where}")


def _packages(at: Candidate) -> Said | None:
    """Values that need a package; a derived image may have more than its facts say."""
    if at.derived:
        return None
    need = missing(at.spec, at.backend, at.facts["packages"])
    if need is not None:
        lacks = f"{need.value} needs the package {need.package}, which the image does not have"
        return Said("fail", lacks, need.remedy)
    named = ", ".join(need.package for need in needs(at.spec, at.backend))
    return Said("pass", f"the image has {named}") if named else None


def _trainer_args(at: Candidate) -> Said | None:
    row = ALGORITHMS[at.spec.algorithm]
    if at.backend not in row.backends:
        return None
    known = list(at.facts["trainer_args"][row.name])
    own = {*known, *at.facts["model_args"]}
    section = at.spec.of_backend(at.backend)
    for key, given, names in (
        ("trainer_args", at.spec.trainer_args, known),
        (at.backend, section, sorted(own)),
    ):
        for name in given:
            if name not in names:
                return Said(
                    "fail",
                    f"{key}.{name}: {row.config} has no such argument{nearest(name, names)}",
                )
    named = ", ".join([*at.spec.trainer_args, *section])
    return Said("pass", named) if named else None


def _names(at: Candidate) -> Said | None:
    training = at.spec.training
    for key, value, table in (
        ("optimizer", training.optimizer, "optimizers"),
        ("schedule", training.schedule, "schedules"),
    ):
        known = list(at.facts[table])
        if value not in known:
            return Said(
                "fail", f"training.{key}: no {value!r} in transformers{nearest(value, known)}"
            )
    return None


def _image(at: Candidate) -> Said:
    if at.image is None:
        flavour = "cuda" if at.gpus else "cpu"
        own = at.host.images[0] if at.derived and at.host.images else None
        named = (
            f"--image {at.spec.image} is of {own.backend} {own.flavour}" if own else "there is none"
        )
        return Said("fail", f"no {flavour} image of it: {named}")
    if at.image.how is None:
        return Said("fail", at.image.reason)
    if not at.in_containers:
        return Said("pass", f"a venv is made from the {at.image.flavour} lock")
    how = {"present": "is here", "pull": "is pulled first", "build": "is built first"}[at.image.how]
    return Said("pass", f"{at.image.ref} {how}")


def _storage(at: Candidate) -> Said | None:
    """Room for an image or a venv that is yet to be had; a build writes its packages twice."""
    if at.image is None or at.image.how in (None, "present"):
        return None
    free = at.host.engine.storage_free if at.in_containers else at.host.cache_free
    place = at.host.engine.root if at.in_containers else str(at.host.cache)
    size = at.facts["flavours"].get(at.image.flavour, {}).get("image_size")
    if free is None or not size:
        return None
    told = f"{free / 1e9:.1f} GB free in {place}, and it takes {size / 1e9:.1f} GB"
    return either(free > size, told)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


OF_A_BACKEND: dict[str, Rule] = {
    "algorithm": Rule(_algorithm, SpecError, "The README's table says what runs where"),
    "gpu": Rule(_gpu, HardwareError, "Use --backend trl"),
    "driver": Rule(_driver, HardwareError, "Update the NVIDIA driver, or use --gpus 0"),
    "capability": Rule(_capability, HardwareError, "Use a newer GPU, or --gpus 0"),
    "model": Rule(_model, ModelError, "Use a causal language model"),
    "quantization": Rule(_quantization, ModelError, "Use the weights that it was made from"),
    "precision": Rule(_precision, SpecError, "Set training.precision=auto"),
    "packages": Rule(_packages, SpecError, "Leave it out"),
    "trainer_args": Rule(_trainer_args, SpecError, "Mend the name or leave it out"),
    "names": Rule(_names, SpecError, "Mend the name or leave it out"),
    "memory": Rule(fits, OutOfMemoryError, NOTHING_FITS),
    "image": Rule(_image, ImageError, "See `aligntune-run images list`"),
    "storage": Rule(_storage, ImageError, "Free some: `docker system df` shows what takes it"),
}
"""Name -> rule that is judged for each backend."""
