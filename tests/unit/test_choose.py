"""Choosing: a table of situations and what each comes to, then what holds for all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.algorithms import ALGORITHMS, BACKENDS
from aligntune.errors import (
    AligntuneError,
    BackendError,
    EngineError,
    HardwareError,
    ImageError,
    ModelError,
    SpecError,
)
from aligntune.settings import Layer, from_assignment, resolve
from aligntune.spec import RunSpec
from aligntune.training.arguments import refuse_owned
from aligntune_run.choose import RULES, choose
from aligntune_run.gpus import Gpu
from aligntune_run.host import Engine, Host, ImageState
from aligntune_run.models import ModelFacts
from aligntune_run.plan import Choice

FACTS: dict[str, dict[str, Any]] = {
    "trl": {
        "versions": {"transformers": "5.23.0"},
        "flavours": {"cuda": {"min_driver": "580.65.06", "min_compute_capability": "7.5"}},
        "model_types": ["gpt2", "llama", "qwen3", "mamba"],
        "trainer_args": {"sft": ["neftune_noise_alpha", "use_liger_kernel"]},
        "model_args": ["use_kernels"],
        "optimizers": ["adamw_torch_fused", "sgd"],
        "schedules": ["linear", "cosine"],
    },
    "unsloth": {
        "versions": {"transformers": "5.17.0"},
        "flavours": {"cuda": {"min_driver": "580.65.06", "min_compute_capability": "7.5"}},
        "model_types": ["gpt2", "llama", "qwen3"],
        "fast_model_types": ["llama", "qwen3"],
        "trainer_args": {"sft": ["neftune_noise_alpha"]},
        "model_args": ["use_gradient_checkpointing"],
        "optimizers": ["adamw_torch_fused", "sgd"],
        "schedules": ["linear", "cosine"],
    },
}

H200 = Gpu(0, "GPU-aaaa", "NVIDIA H200", (9, 0), 141 * 2**30, 141 * 2**30)
SECOND = Gpu(1, "GPU-bbbb", "NVIDIA H200", (9, 0), 141 * 2**30, 141 * 2**30)
V100 = Gpu(0, "GPU-cccc", "Tesla V100", (7, 0), 16 * 2**30, 16 * 2**30)


def image(backend: str, flavour: str, how: Any = "present", reason: str = "") -> ImageState:
    ref = f"aligntune-{backend}:{flavour}"
    digest = f"sha256:{backend}{flavour}" if how == "present" else None
    return ImageState(backend, flavour, ref, f"lock-{backend}-{flavour}", digest, how, reason)


TRL_CPU, TRL_CUDA, UNSLOTH = image("trl", "cpu"), image("trl", "cuda"), image("unsloth", "cuda")

CPU_MACHINE = Host(
    system="Linux",
    machine="x86_64",
    uid=1000,
    gid=1000,
    cpus=2,
    memory=2**34,
    gpus=(),
    gpu_note="NVML finds no GPU",
    driver=None,
    other_gpu=None,
    engine=Engine(True, gpu_way="nvidia"),
    images=(TRL_CPU, TRL_CUDA, UNSLOTH),
    cache=Path("/home/u/.cache/aligntune"),
    hub_cache=Path("/home/u/.cache/huggingface/hub"),
    datasets_cache=Path("/home/u/.cache/huggingface/datasets"),
    token=None,
    environment={},
)
GPU_MACHINE = replace(CPU_MACHINE, gpus=(H200,), gpu_note="", driver="580.65.06")
NO_ENGINE = Engine(False, "there is no /var/run/docker.sock")
NO_UNSLOTH = (TRL_CPU, TRL_CUDA, image("unsloth", "cuda", None, "it is not here, and --pull never"))


def spec_of(*assignments: str) -> RunSpec:
    needed = {"algorithm": "sft", "model": "org/model", "dataset": "org/data"}
    return resolve([Layer("test", needed), *map(from_assignment, assignments)]).spec


@dataclass(frozen=True)
class Case:
    """A situation, and what it comes to: ``backend/flavour/engine``, or an error and its words."""

    name: str
    comes_to: str | type[AligntuneError]
    says: str
    host: Host = CPU_MACHINE
    ask: tuple[str, ...] = ()
    model: ModelFacts = field(default_factory=lambda: ModelFacts("llama"))
    warns: bool = False


CASES = [
    # what the machine has
    Case("no GPU", "trl/cpu/docker", "not Unsloth: it needs an NVIDIA GPU: NVML finds no GPU"),
    Case("a good GPU", "unsloth/cuda/docker", "Unsloth on NVIDIA H200", GPU_MACHINE),
    Case(
        "two GPUs, of which auto takes one",
        "unsloth/cuda/docker",
        "Unsloth on NVIDIA H200 (every",
        replace(GPU_MACHINE, gpus=(H200, SECOND)),
    ),
    Case(
        "an old driver",
        HardwareError,
        "driver 550.54.15; the image's CUDA needs 580.65.06 or newer",
        replace(GPU_MACHINE, driver="550.54.15"),
    ),
    Case(
        "an old driver that is not used",
        "trl/cpu/docker",
        "--gpus 0",
        replace(GPU_MACHINE, driver="550.54.15"),
        ("gpus=0",),
    ),
    Case(
        "a driver that is newer in its last number only",
        "unsloth/cuda/docker",
        "Unsloth",
        replace(GPU_MACHINE, driver="580.100.1"),
    ),
    Case(
        "an old GPU",
        HardwareError,
        "compute capability 7.0; needs 7.5",
        replace(GPU_MACHINE, gpus=(V100,)),
    ),
    Case(
        "an AMD GPU",
        HardwareError,
        "this machine's GPU is from AMD",
        replace(CPU_MACHINE, other_gpu="AMD"),
    ),
    Case(
        "an AMD GPU that is not used",
        "trl/cpu/docker",
        "TRL on the CPU",
        replace(CPU_MACHINE, other_gpu="AMD"),
        ("gpus=0",),
    ),
    Case(
        "a Mac",
        HardwareError,
        "macOS is not supported, nor is its GPU",
        replace(CPU_MACHINE, system="Darwin", machine="arm64", other_gpu="Apple"),
    ),
    Case(
        "arm64", HardwareError, "aarch64 is not supported", replace(CPU_MACHINE, machine="aarch64")
    ),
    # GPUs asked for
    Case("--gpus 0 on a GPU machine", "trl/cpu/docker", "--gpus 0", GPU_MACHINE, ("gpus=0",)),
    Case(
        "--gpus 2 on a machine with one",
        HardwareError,
        "--gpus 2: this machine has 1",
        GPU_MACHINE,
        ("gpus=2",),
    ),
    Case(
        "--gpus 1 on a machine with none",
        HardwareError,
        "--gpus 1: this machine has 0 (NVML finds no GPU)",
        ask=("gpus=1",),
    ),
    Case("--gpus all with none", HardwareError, "this machine has 0", ask=("gpus=all",)),
    Case(
        "--gpus by an unknown UUID",
        HardwareError,
        "no GPU GPU-zzzz",
        GPU_MACHINE,
        ("gpus=GPU-zzzz",),
    ),
    Case(
        "several GPUs",
        HardwareError,
        "several GPUs is not supported yet",
        replace(GPU_MACHINE, gpus=(H200, SECOND)),
        ("gpus=2",),
    ),
    Case(
        "an engine that cannot pass the GPU",
        HardwareError,
        "the engine cannot pass NVIDIA H200 to a container",
        replace(GPU_MACHINE, engine=Engine(True, gpu_way="none")),
    ),
    # backends asked for
    Case("--backend trl with a GPU", "trl/cuda/docker", "as asked", GPU_MACHINE, ("backend=trl",)),
    Case("--backend trl without", "trl/cpu/docker", "as asked", ask=("backend=trl",)),
    Case(
        "--backend unsloth with a GPU",
        "unsloth/cuda/docker",
        "as asked",
        GPU_MACHINE,
        ("backend=unsloth",),
    ),
    Case(
        "--backend unsloth without a GPU",
        "trl/cpu/docker",
        "not Unsloth: it needs an NVIDIA GPU",
        ask=("backend=unsloth",),
        warns=True,
    ),
    Case(
        "--backend unsloth --strict without a GPU",
        BackendError,
        "--strict: Unsloth cannot be had: it needs an NVIDIA GPU",
        ask=("backend=unsloth", "strict=true"),
    ),
    Case(
        "--strict alone forbids nothing that auto does", "trl/cpu/docker", "", ask=("strict=true",)
    ),
    # images
    Case(
        "no Unsloth image and no way to one",
        "trl/cuda/docker",
        "not Unsloth: it is not here, and --pull never",
        replace(GPU_MACHINE, images=NO_UNSLOTH),
    ),
    Case(
        "--backend unsloth without its image",
        "trl/cuda/docker",
        "not Unsloth: it is not here",
        replace(GPU_MACHINE, images=NO_UNSLOTH),
        ("backend=unsloth",),
        warns=True,
    ),
    Case(
        "--backend unsloth --strict without its image",
        BackendError,
        "it is not here, and --pull never",
        replace(GPU_MACHINE, images=NO_UNSLOTH),
        ("backend=unsloth", "strict=true"),
    ),
    Case(
        "an image that has to be built",
        "trl/cpu/docker",
        "TRL on the CPU",
        replace(CPU_MACHINE, images=(image("trl", "cpu", "build"),)),
    ),
    Case(
        "no cpu image, but the cuda one",
        "trl/cuda/docker",
        "TRL on the CPU",
        replace(CPU_MACHINE, images=(image("trl", "cpu", None, "not here"), TRL_CUDA)),
    ),
    Case(
        "no image at all",
        ImageError,
        "not here, never pulled",
        replace(CPU_MACHINE, images=(image("trl", "cpu", None, "not here, never pulled"),)),
    ),
    Case(
        "a derived image",
        "trl/cpu/docker",
        "TRL on the CPU",
        replace(CPU_MACHINE, images=(replace(TRL_CPU, ref="mine:1"),)),
        ("image=mine:1",),
    ),
    Case(
        "a derived image of the other flavour",
        ImageError,
        "no cuda image of it: --image mine:1 is not one",
        replace(GPU_MACHINE, images=(replace(TRL_CPU, ref="mine:1"),)),
        ("image=mine:1",),
    ),
    Case(
        "a derived image without an engine",
        EngineError,
        "--image mine:1 needs a container engine",
        replace(CPU_MACHINE, engine=NO_ENGINE),
        ("image=mine:1",),
    ),
    # engines
    Case("no engine", "trl/cpu/process", "TRL on the CPU", replace(CPU_MACHINE, engine=NO_ENGINE)),
    Case(
        "no engine, but a GPU",
        "unsloth/cuda/process",
        "Unsloth on NVIDIA H200",
        replace(GPU_MACHINE, engine=NO_ENGINE),
    ),
    Case(
        "--engine docker without one",
        EngineError,
        "no container engine: there is no /var/run/docker.sock",
        replace(CPU_MACHINE, engine=NO_ENGINE),
        ("engine=docker",),
    ),
    Case("--engine process", "trl/cpu/process", "TRL", ask=("engine=process",)),
    # models
    Case(
        "a model type that neither knows",
        ModelError,
        "its transformers 5.23.0 has no causal 'bert'",
        GPU_MACHINE,
        model=ModelFacts("bert"),
    ),
    Case(
        "a model type that only TRL's transformers knows",
        "trl/cuda/docker",
        "not Unsloth: its transformers 5.17.0 has no causal 'mamba'",
        GPU_MACHINE,
        model=ModelFacts("mamba"),
    ),
    Case(
        "a vision model",
        ModelError,
        "llava is a vision model, which is not supported",
        GPU_MACHINE,
        model=ModelFacts("llava", vision=True),
    ),
    Case(
        "a hub model, of which nothing is known yet",
        "trl/cuda/docker",
        "not Unsloth: what type",
        GPU_MACHINE,
        model=ModelFacts(),
    ),
    # words for the trainer
    Case(
        "an argument that no trainer has",
        SpecError,
        "trainer_args.neftune_alpha: SFTConfig has no such argument; "
        "did you mean 'neftune_noise_alpha'?",
        ask=("trainer_args.neftune_alpha=5",),
    ),
    Case(
        "an argument that only TRL's newer trainer has",
        "trl/cuda/docker",
        "not Unsloth: trainer_args.use_liger_kernel",
        GPU_MACHINE,
        ("trainer_args.use_liger_kernel=true",),
    ),
    Case(
        "a slip in the optimizer's name",
        SpecError,
        "no 'adamw_torch_fusd' in transformers; did you mean 'adamw_torch_fused'?",
        ask=("training.optimizer=adamw_torch_fusd",),
    ),
    Case(
        "a slip in the schedule's name",
        SpecError,
        "no 'cosin' in transformers; did you mean 'cosine'?",
        ask=("training.schedule=cosin",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_chosen(case: Case) -> None:
    spec = spec_of(*case.ask)
    if isinstance(case.comes_to, str):
        choice = choose(spec, case.host, case.model, FACTS)
        assert f"{choice.backend}/{choice.flavour}/{choice.engine}" == case.comes_to
        assert case.says in choice.reason
        assert bool(choice.warnings) == case.warns
    else:
        with pytest.raises(AligntuneError) as refused:
            choose(spec, case.host, case.model, FACTS)
        assert type(refused.value) is case.comes_to
        assert case.says in str(refused.value)


def test_a_fallback_says_what_was_asked_what_was_missing_and_how_to_forbid_it() -> None:
    (warning,) = choose(spec_of("backend=unsloth"), CPU_MACHINE, ModelFacts(), FACTS).warnings
    assert warning.startswith("Unsloth was asked for and cannot be had: it needs an NVIDIA GPU")
    assert "TRL instead" in warning
    assert "--strict" in warning


@pytest.mark.parametrize(
    ("model_type", "path"), [("llama", "fast"), ("qwen3", "fast"), ("gpt2", "general")]
)
def test_unsloth_s_verdict_on_a_model_names_the_path_it_takes(model_type: str, path: str) -> None:
    choice = choose(spec_of(), GPU_MACHINE, ModelFacts(model_type), FACTS)
    said = next(v for v in choice.verdicts if (v.backend, v.rule) == ("unsloth", "model"))
    assert said.evidence == f"{model_type} takes Unsloth's {path} path"


def test_a_run_gets_exactly_the_gpus_it_asks_for() -> None:
    host = replace(GPU_MACHINE, gpus=(H200, SECOND))
    for asked, given_gpus in (("auto", H200), ("1", H200), ("GPU-bbbb", SECOND), ("0", None)):
        choice = choose(spec_of(f"gpus={asked}"), host, ModelFacts(), FACTS)
        assert choice.gpus == ((given_gpus.uuid,) if given_gpus else ())


def test_the_chosen_image_is_the_one_on_this_machine_by_digest() -> None:
    chosen = choose(spec_of(), CPU_MACHINE, ModelFacts(), FACTS).image
    assert chosen is not None
    assert (chosen.ref, chosen.id, chosen.how) == ("aligntune-trl:cpu", "sha256:trlcpu", "present")
    without_engine = replace(CPU_MACHINE, engine=NO_ENGINE)
    assert choose(spec_of(), without_engine, ModelFacts(), FACTS).image is None


def test_a_trainer_argument_that_the_spec_has_a_key_for_is_refused_with_that_key() -> None:
    with pytest.raises(SpecError, match=r"trainer_args\.learning_rate.*training\.learning_rate"):
        refuse_owned(spec_of("trainer_args.learning_rate=1"))


# --- what holds for every situation

gpus = st.lists(st.sampled_from([H200, V100]), max_size=2).map(
    lambda found: tuple(
        replace(gpu, index=index, uuid=f"GPU-{index}") for index, gpu in enumerate(found)
    )
)
images = st.lists(
    st.builds(
        image,
        st.sampled_from(BACKENDS),
        st.sampled_from(["cpu", "cuda"]),
        st.sampled_from(["present", "pull", "build", None]),
        st.just("it is not here"),
    ),
    max_size=4,
).map(tuple)
hosts = st.builds(
    replace,
    st.just(CPU_MACHINE),
    system=st.sampled_from(["Linux", "Linux", "Linux", "Darwin"]),
    machine=st.sampled_from(["x86_64", "x86_64", "x86_64", "aarch64"]),
    gpus=gpus,
    driver=st.sampled_from([None, "550.1", "580.65.06", "590.1"]),
    other_gpu=st.sampled_from([None, None, "AMD"]),
    engine=st.builds(
        Engine,
        st.booleans(),
        st.just("no engine"),
        gpu_way=st.sampled_from(["none", "nvidia", "cdi"]),
    ),
    images=images,
)
requests = st.builds(
    lambda *assignments: spec_of(*filter(None, assignments)),
    st.sampled_from(["backend=auto", "backend=trl", "backend=unsloth"]),
    st.sampled_from(["strict=true", "strict=false"]),
    st.sampled_from(["gpus=auto", "gpus=0", "gpus=1", "gpus=2", "gpus=all", "gpus=GPU-0"]),
    st.sampled_from(["engine=auto", "engine=docker", "engine=process"]),
    st.sampled_from(["", "", "training.optimizer=adamw", "trainer_args.x=1", "image=mine:1"]),
)
models = st.builds(
    ModelFacts, st.sampled_from([None, "llama", "gpt2", "mamba", "bert"]), st.booleans()
)


def outcome(spec: RunSpec, host: Host, model: ModelFacts) -> Choice | AligntuneError:
    try:
        return choose(spec, host, model, FACTS)
    except AligntuneError as error:
        return error


@given(requests, hosts, models)
def test_backend_trl_is_trl_or_an_error(spec: RunSpec, host: Host, model: ModelFacts) -> None:
    found = outcome(spec.model_copy(update={"backend": "trl"}), host, model)
    assert isinstance(found, AligntuneError) or (found.backend == "trl" and not found.warnings)


@given(requests, hosts, models)
def test_unsloth_is_never_chosen_without_a_gpu(
    spec: RunSpec, host: Host, model: ModelFacts
) -> None:
    found = outcome(spec, host, model)
    assert isinstance(found, AligntuneError) or found.backend == "trl" or found.gpus


@given(requests, hosts, models)
def test_the_same_situation_comes_to_the_same_choice(
    spec: RunSpec, host: Host, model: ModelFacts
) -> None:
    again = resolve([Layer("again", spec.model_dump())]).spec
    first, second = outcome(spec, host, model), outcome(again, replace(host), replace(model))
    assert repr(first) == repr(second)


@given(requests, hosts, models)
def test_every_refusal_is_one_line_and_names_a_remedy(
    spec: RunSpec, host: Host, model: ModelFacts
) -> None:
    found = outcome(spec, host, model)
    if isinstance(found, AligntuneError):
        assert found.exit_code != 1, "a class of its own"
        assert found.what
        assert found.remedy
        assert "\n" not in str(found)


@given(requests, hosts, models)
def test_strict_never_gives_another_backend_than_asked(
    spec: RunSpec, host: Host, model: ModelFacts
) -> None:
    found = outcome(spec.model_copy(update={"strict": True}), host, model)
    assert isinstance(found, AligntuneError) or spec.backend in ("auto", found.backend)


@given(requests, hosts, models)
def test_auto_never_fails_where_trl_runs(spec: RunSpec, host: Host, model: ModelFacts) -> None:
    trl = outcome(spec.model_copy(update={"backend": "trl"}), host, model)
    auto = outcome(spec.model_copy(update={"backend": "auto"}), host, model)
    assert isinstance(trl, AligntuneError) or isinstance(auto, Choice)


@given(requests, hosts, models)
def test_what_is_chosen_passes_every_rule_and_runs_on_this_host(
    spec: RunSpec, host: Host, model: ModelFacts
) -> None:
    found = outcome(spec, host, model)
    if isinstance(found, Choice):
        verdicts = [verdict for verdict in found.verdicts if verdict.backend == found.backend]
        assert verdicts
        assert all(verdict.passed for verdict in verdicts)
        assert {verdict.rule for verdict in verdicts} <= set(RULES)
        assert set(found.gpus) <= {gpu.uuid for gpu in host.gpus}
        assert found.engine == "process" or host.engine.reachable
        assert found.flavour == "cuda" or not found.gpus


# --- what the images publish


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_committed_facts_hold_what_choosing_reads(backend: str) -> None:
    path = Path(__file__).parents[2] / "images" / backend / "facts.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert {
        "versions",
        "flavours",
        "model_types",
        "trainer_args",
        "model_args",
        "optimizers",
        "schedules",
    } <= set(facts)
    assert facts["versions"]["transformers"]
    assert {"min_driver", "min_compute_capability"} <= set(facts["flavours"]["cuda"])
    assert {"llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2"} <= set(facts["model_types"])
    for row in ALGORITHMS.values():
        if backend in row.backends:
            assert "learning_rate" in facts["trainer_args"][row.name]
    spec = spec_of()
    assert spec.training.optimizer in facts["optimizers"]
    assert spec.training.schedule in facts["schedules"]
    if backend == "unsloth":
        assert set(facts["fast_model_types"]) <= set(facts["model_types"])
