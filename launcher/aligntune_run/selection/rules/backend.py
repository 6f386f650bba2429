"""Rules about a backend."""

from __future__ import annotations

from aligntune.algorithms import ALGORITHMS, TITLES
from aligntune.errors import HardwareError, ImageError, ModelError, OutOfMemoryError, SpecError
from aligntune.packages import missing, needs
from aligntune.spec.suggest import nearest
from aligntune.units import gib
from aligntune_run.check import Result, fails, pass_if, passes, warns
from aligntune_run.models.facts import ModelFacts
from aligntune_run.selection.rules.base import BACKEND, Candidate
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
"""How a checkpoint is already quantized -> the package it needs, which no image has."""


@BACKEND.check("algorithm", SpecError, "See the table of algorithms in the README", about="backend")
def _algorithm(at: Candidate) -> Result:
    row = ALGORITHMS[at.spec.algorithm]
    passed = at.backend in row.backends
    verb = "runs" if passed else "does not run"
    return pass_if(passed, f"{row.title} {verb} on {TITLES[at.backend]}")


@BACKEND.check("gpu", HardwareError, "Use --backend trl")
def _gpu(at: Candidate) -> Result | None:
    if at.backend != "unsloth":
        return None
    if at.gpus:
        return passes(f"it uses {at.gpus[0].name}")
    why = "--gpus 0" if at.spec.gpus == "0" else at.host.gpu_note
    return fails(f"it needs an NVIDIA GPU: {why}".removesuffix(": "))


@BACKEND.check("driver", HardwareError, "Update the NVIDIA driver, or use --gpus 0")
def _driver(at: Candidate) -> Result | None:
    if not at.gpus or at.host.driver is None:
        return None
    flavour = at.facts["flavours"]["cuda"]
    least = str(flavour["min_driver"])
    newest = f" (CUDA {at.host.driver_cuda})" if at.host.driver_cuda else ""
    return pass_if(
        _numbers(at.host.driver) >= _numbers(least),
        f"driver {at.host.driver}{newest}; the image's CUDA {flavour['cuda']} needs {least} "
        "or newer",
    )


@BACKEND.check("capability", HardwareError, "Use a newer GPU, or --gpus 0")
def _capability(at: Candidate) -> Result | None:
    if not at.gpus:
        return None
    flavour = at.facts["flavours"]["cuda"]
    least, architectures = str(flavour["min_compute_capability"]), list(flavour["arch_list"])
    for gpu in at.gpus:
        evidence = f"{gpu.name} has compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        if gpu.capability < _numbers(least):
            return fails(f"{evidence}; needs {least}")
        if not any(runs(arch, gpu.capability) for arch in architectures):
            return fails(
                f"{evidence}; the image's torch supports {', '.join(architectures)}",
                "Use another GPU, or --gpus 0",
            )
    return passes(f"{evidence}; needs {least}")


def runs(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture runs on a GPU: ``sm_86`` on the same major version with the
    same minor version or newer, ``sm_90a`` on exactly that GPU, and ``compute_80``, which is
    compiled on the machine, on anything newer.

    https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc/#gpu-feature-list
    """
    kind, _, number = arch.partition("_")
    major, minor = divmod(int(number.rstrip("af")), 10)
    if number.endswith("a"):
        return capability == (major, minor)
    if kind == "compute":
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor


@BACKEND.check("model", ModelError, "Use a causal language model", about="backend")
def _model(at: Candidate) -> Result | None:
    if at.model is None:
        return None
    kind = at.model.model_type
    if at.model.vision:
        return _vision_model(at, at.model)
    if kind is None:
        if at.backend != "unsloth":
            return None  # TRL supports what transformers supports; if not, the worker says so
        why = f" ({at.model.note})" if at.model.note else ""
        return fails(
            f"the type of {at.spec.model.name} is unknown until it is fetched{why}",
            "Use --backend trl",
        )
    if kind not in at.facts["model_types"]:
        if at.backend == "trl" and at.model.custom_code and at.spec.model.trust_remote_code:
            return passes(f"{kind} is loaded by the code in its repository")
        version = at.facts["versions"]["transformers"]
        own_code = "; its repository has code for it" if at.model.custom_code else ""
        return fails(
            f"its transformers {version} has no causal model {kind!r}{own_code}",
            "Set model.trust_remote_code=true if you trust that code" if own_code else "",
        )
    if at.backend == "unsloth":
        path = "fast" if kind in at.facts["fast_model_types"] else "general"
        return passes(f"{kind} uses Unsloth's {path} path")
    return passes(f"transformers supports {kind}")


def _vision_model(at: Candidate, model: ModelFacts) -> Result:
    """A checkpoint with a vision part trains as text, through the class of its text part."""
    if at.backend == "unsloth":
        return fails(f"it does not train the text part of {model.model_type}", "Use --backend trl")
    if model.text_type and model.text_type not in at.facts["model_types"]:
        version = at.facts["versions"]["transformers"]
        return fails(
            f"{model.model_type} is a vision model, and its transformers {version} has no class "
            "for its text part alone"
        )
    return passes(f"{model.model_type} is trained as text; its vision part is left out")


@BACKEND.check("quantization", ModelError, "Use the original weights", about="request")
def _quantization(at: Candidate) -> Result | None:
    wanted = at.spec.model.quantization
    method = at.model.quantized if at.model else None
    if method is None:
        return None if wanted == "none" else passes(f"{wanted} by bitsandbytes")
    if wanted != "none" and method != "bitsandbytes":
        return fails(
            f"its weights are already quantized by {method}, so {wanted} is not possible",
        )
    if at.spec.adapter.type == "none":
        return fails(
            f"its weights are quantized by {method} and cannot be trained in full",
            "Train an adapter, e.g. with --lora-rank 16, or use the original weights",
        )
    package = QUANTIZERS.get(method)
    if package and not at.derived:
        return fails(f"its weights are quantized by {method}, and no image has {package}")
    return passes(f"its weights are quantized by {method}")


@BACKEND.check("precision", SpecError, "Set training.precision=auto", about="request")
def _precision(at: Candidate) -> Result:
    asked = at.spec.training.precision
    bf16 = at.bf16
    other = "fp16" if at.gpus else "fp32"
    chosen = ("bf16" if bf16 else other) if asked == "auto" else asked
    where = "this GPU" if at.gpus else "this CPU"
    if asked == "fp16" and not at.gpus:
        return fails("a CPU cannot train in fp16", "Use training.precision=bf16 or fp32")
    if asked == "bf16" and not bf16:
        if at.gpus:
            return fails(f"{where} does not support bf16", "Use training.precision=fp16")
        return warns(f"{where} computes bf16 slowly", "Use training.precision=fp32")
    if at.backend == "unsloth" and at.spec.unsloth.get("load_in_fp8"):
        slow = [gpu for gpu in at.gpus if gpu.capability < FP8_CAPABILITY]
        if slow:
            return fails("unsloth.load_in_fp8 needs compute capability 9.0", "Leave it out")
    return passes(f"{chosen} on {where}")


@BACKEND.check("packages", SpecError, "Leave it out", about="request")
def _packages(at: Candidate) -> Result | None:
    """Values that need a package. A derived image can contain more than its facts say."""
    if at.derived:
        return None
    need = missing(at.spec, at.backend, at.facts["packages"])
    if need is not None:
        evidence = f"{need.value} needs the package {need.package}, which the image does not have"
        return fails(evidence, need.remedy)
    named = ", ".join(need.package for need in needs(at.spec, at.backend))
    return passes(f"the image has {named}") if named else None


@BACKEND.check("trainer_args", SpecError, "Fix the name, or leave it out", about="request")
def _trainer_args(at: Candidate) -> Result | None:
    row = ALGORITHMS[at.spec.algorithm]
    known = list(at.facts["trainer_args"].get(row.config, ()))
    if at.backend not in row.backends or not known:
        return None  # the worker checks arguments that were not measured
    own = {*known, *at.facts["model_args"]}
    section = at.spec.of_backend(at.backend)
    for key, given, names in (
        ("trainer_args", at.spec.trainer_args, known),
        (at.backend, section, sorted(own)),
    ):
        for name in given:
            if name not in names:
                return fails(
                    f"{key}.{name}: {row.config} has no such argument{nearest(name, names)}",
                )
    named = ", ".join([*at.spec.trainer_args, *section])
    return passes(named) if named else None


@BACKEND.check("names", SpecError, "Fix the name, or leave it out", about="request")
def _names(at: Candidate) -> Result | None:
    training = at.spec.training
    for key, value, table in (
        ("optimizer", training.optimizer, "optimizers"),
        ("schedule", training.schedule, "schedules"),
    ):
        known = list(at.facts[table])
        if value not in known:
            return fails(f"training.{key}: no {value!r} in transformers{nearest(value, known)}")
    return None


BACKEND.check("memory", OutOfMemoryError, NOTHING_FITS, about="request")(fits)


@BACKEND.check("image", ImageError, "See `aligntune-run images list`")
def _image(at: Candidate) -> Result:
    if at.image is None:
        flavour = "cuda" if at.gpus else "cpu"
        own = at.host.images[0] if at.derived and at.host.images else None
        named = (
            f"--image {at.spec.image} is for {own.backend} {own.flavour}"
            if own
            else "there is none"
        )
        return fails(f"it has no {flavour} image: {named}")
    if at.image.how is None:
        return fails(at.image.reason)
    if not at.in_containers:
        return passes(f"a venv will be made from the {at.image.flavour} lock")
    how = {"present": "is here", "pull": "will be pulled first", "build": "will be built first"}[
        at.image.how
    ]
    return passes(f"{at.image.ref} {how}")


@BACKEND.check(
    "storage", ImageError, "Free some space: `aligntune-run images prune`, `docker system prune`"
)
def _storage(at: Candidate) -> Result | None:
    """Disk space for an image or venv that is still missing; a build writes its packages twice."""
    if at.image is None or at.image.how in (None, "present"):
        return None
    free = at.host.engine.storage_free if at.in_containers else at.host.cache_free
    place = at.host.engine.root if at.in_containers else str(at.host.cache)
    size = at.facts["flavours"].get(at.image.flavour, {}).get("image_size")
    if free is None or not size:
        return None
    evidence = f"{gib(free)} free in {place}, and it needs {gib(size)}"
    return pass_if(free > size, evidence)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
