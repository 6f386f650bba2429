"""Choosing: a table of situations and what each comes to, then what holds for all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aligntune.algorithms import ALGORITHMS, BACKENDS
from aligntune.errors import AligntuneError, DataError, SpecError
from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.trainer_args import refuse_owned
from aligntune_run.check import Verdict
from aligntune_run.host.types import Engine, Gpu, Host, ImageState
from aligntune_run.models.facts import ModelFacts, of_config
from aligntune_run.plan import Choice
from aligntune_run.selection.rules import BACKEND, MACHINE
from aligntune_run.selection.select import choose

FACTS: dict[str, dict[str, Any]] = {
    "trl": {
        "versions": {"transformers": "5.23.0"},
        "flavours": {
            "cpu": {"image_size": 2_100_000_000},
            "cuda": {
                "cuda": "13.0",
                "min_driver": "580.65.06",
                "min_compute_capability": "7.5",
                "arch_list": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
                "image_size": 6_100_000_000,
            },
        },
        "model_types": ["gpt2", "llama", "qwen3", "mamba"],
        "trainer_args": {
            **{row.config: ["beta"] for row in ALGORITHMS.values()},
            "SFTConfig": ["neftune_noise_alpha", "torch_empty_cache_steps", "use_liger_kernel"],
        },
        "model_args": ["use_kernels"],
        "packages": ["bitsandbytes"],
        "optimizers": ["adamw_torch_fused", "adamw_torch_8bit", "galore_adamw", "sgd"],
        "schedules": ["linear", "cosine"],
    },
}
FACTS["unsloth"] = {
    **FACTS["trl"],
    "versions": {"transformers": "5.17.0"},
    "model_types": ["gpt2", "llama", "qwen3"],
    "fast_model_types": ["llama", "qwen3"],
    "trainer_args": {
        **{row.config: ["beta"] for row in ALGORITHMS.values()},
        "SFTConfig": ["neftune_noise_alpha"],
    },
    "model_args": ["fast_inference", "use_gradient_checkpointing", "load_in_fp8"],
    "packages": ["bitsandbytes", "torchao"],
}

GIB = 2**30
H200 = Gpu(0, "GPU-aaaa", "NVIDIA H200", (9, 0), 141 * GIB, 141 * GIB)
SECOND = replace(H200, index=1, uuid="GPU-bbbb")
V100 = Gpu(0, "GPU-cccc", "Tesla V100", (7, 0), 16 * GIB, 16 * GIB)
T4 = replace(V100, name="Tesla T4", capability=(7, 5))
GPUS = {
    "h200": H200,
    "second": SECOND,
    "v100": V100,
    "t4": T4,
    "l4": Gpu(0, "GPU-dddd", "NVIDIA L4", (8, 9), 24 * GIB, 24 * GIB),
    "b300": Gpu(0, "GPU-eeee", "NVIDIA B300", (10, 3), 288 * GIB, 288 * GIB),
    "thor": Gpu(0, "GPU-ffff", "NVIDIA Thor", (11, 0), 128 * GIB, 128 * GIB),
    "slice": Gpu(0, "MIG-aaaa", "NVIDIA H200 MIG 1g.18gb", (9, 0), 18 * GIB, 18 * GIB),
    "leased": replace(H200, leased="run-1"),
    "used": replace(H200, users=("python (pid 7)",)),
    "full": replace(H200, users=("python (pid 7)",), free=4 * GIB),
}


def image(backend: str, flavour: str, how: Any = "present", reason: str = "") -> ImageState:
    ref = f"aligntune-{backend}:{flavour}"
    digest = f"sha256:{backend}{flavour}" if how == "present" else None
    return ImageState(backend, flavour, ref, f"lock-{backend}-{flavour}", digest, how, reason)


TRL_CPU, TRL_CUDA, UNSLOTH = image("trl", "cpu"), image("trl", "cuda"), image("unsloth", "cuda")
NOT_HERE = "it is not here, and --pull never"
IMAGES = {
    "trl_cpu": TRL_CPU,
    "trl_cuda": TRL_CUDA,
    "unsloth": UNSLOTH,
    "trl_cpu_build": image("trl", "cpu", "build"),
    "unsloth_pull": image("unsloth", "cuda", "pull"),
    "no_trl_cpu": image("trl", "cpu", None, NOT_HERE),
    "no_unsloth": image("unsloth", "cuda", None, NOT_HERE),
    "mine": replace(TRL_CPU, ref="mine:1"),
    "mine_cuda": replace(TRL_CUDA, ref="mine:2"),
}

CPU_MACHINE = Host(
    system="Linux",
    machine="x86_64",
    uid=1000,
    gid=1000,
    cpus=2,
    memory=16 * GIB,
    gpus=(),
    gpu_note="NVML finds no GPU",
    driver=None,
    other_gpu=None,
    engine=Engine(True, kind="docker", version="28.0", gpu_way="nvidia", memory=16 * GIB),
    images=(TRL_CPU, TRL_CUDA, UNSLOTH),
    cache=Path("/home/u/.cache/aligntune"),
    hub_cache=Path("/home/u/.cache/huggingface/hub"),
    datasets_cache=Path("/home/u/.cache/huggingface/datasets"),
    token=None,
    environment={},
)
GPU_MACHINE = replace(CPU_MACHINE, gpus=(H200,), gpu_note="", driver="580.65.06")
NO_ENGINE = Engine(False, "there is no /var/run/docker.sock")


def llama(hidden: int, layers: int, intermediate: int) -> ModelFacts:
    """A model of Llama's making with a vocabulary of 32,000, as its files tell."""
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "num_attention_heads": hidden // 128,
        "vocab_size": 32_000,
        "max_position_embeddings": 4096,
        "dtype": "bfloat16",
    }
    attention, feed_forward = ("q", "k", "v", "o"), ("gate", "up", "down")
    linear = {f"{name}_proj": 2 * hidden * layers for name in attention}
    linear |= {f"{name}_proj": (hidden + intermediate) * layers for name in feed_forward}
    parameters = layers * (4 * hidden**2 + 3 * hidden * intermediate) + 2 * 32_000 * hidden
    known = of_config(config, tied=False)
    return replace(known, parameters=parameters, linear=tuple(linear.items()))


MODELS = {"7b": llama(4096, 32, 11_008), "70b": llama(8192, 80, 28_672)}


def spec_of(*assignments: str) -> RunSpec:
    needed = {"algorithm": "sft", "model": "org/model", "dataset": "org/data"}
    return resolve([Layer("test", needed), *map(from_assignment, assignments)]).spec


def host_of(**differs: Any) -> Host:
    """The machine of a case, by what differs from one without a GPU."""
    gpus = tuple(GPUS[name] for name in differs.pop("gpus", ()))
    machine = replace(GPU_MACHINE, gpus=gpus) if gpus else CPU_MACHINE
    if "images" in differs:
        differs["images"] = tuple(IMAGES[name] for name in differs["images"])
    if "engine" in differs:
        engine = differs["engine"]
        here = engine.get("reachable", True)
        differs["engine"] = replace(machine.engine, **engine) if here else NO_ENGINE
    return replace(machine, **differs)


def model_of(told: str | dict[str, Any]) -> ModelFacts:
    return MODELS[told] if isinstance(told, str) else ModelFacts(**told)


CASES = yaml.safe_load((Path(__file__).parent / "situations.yaml").read_text(encoding="utf-8"))


def test_the_situations_are_many_and_distinct() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) >= 60
    known = {"name", "host", "ask", "model", "comes_to", "rule", "says", "warns"}
    assert all(set(case) <= known for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_a_situation_has_its_outcome(case: dict[str, Any]) -> None:
    model = model_of(case.get("model", {"model_type": "llama"}))
    host = host_of(**case.get("host", {}))
    outcome = choose(spec_of(*case.get("ask", ())), host, model, FACTS)
    assert outcome.rule == case.get("rule", "")
    if outcome.choice is None:
        assert type(outcome.refusal).__name__ == case["comes_to"]
        assert case["says"] in str(outcome.refusal)
        return
    choice = outcome.choice
    assert f"{choice.backend}/{choice.flavour}/{choice.engine}" == case["comes_to"]
    assert choice.rule == outcome.rule
    assert case.get("says", "") in choice.reason
    if "warns" in case:
        assert any(case["warns"] in warning for warning in choice.warnings)
    else:
        assert choice.warnings == ()


def test_every_rule_decides_some_situation_or_is_only_a_warning() -> None:
    """But for the rule of an engine's cgroups, which never stands in the way."""
    deciding = {case.get("rule") for case in CASES}
    assert set(MACHINE.checks) | set(BACKEND.checks) == (deciding - {None}) | {"cgroups"}


def chosen(spec: RunSpec, host: Host, model: ModelFacts) -> Choice:
    return choose(spec, host, model, FACTS).require()


def test_a_fallback_names_the_request_the_reason_and_strict() -> None:
    (warning,) = chosen(spec_of("backend=unsloth"), CPU_MACHINE, ModelFacts()).warnings
    assert warning.startswith("Unsloth is unavailable: it needs an NVIDIA GPU")
    assert "TRL instead" in warning
    assert "--strict" in warning


@pytest.mark.parametrize(
    ("model_type", "path"), [("llama", "fast"), ("qwen3", "fast"), ("gpt2", "general")]
)
def test_unsloth_s_verdict_on_a_model_names_the_path_it_takes(model_type: str, path: str) -> None:
    choice = chosen(spec_of(), GPU_MACHINE, ModelFacts(model_type))
    said = next(v for v in choice.verdicts if (v.backend, v.rule) == ("unsloth", "model"))
    assert said.evidence == f"{model_type} uses Unsloth's {path} path"


def test_a_run_gets_exactly_the_gpus_it_asks_for() -> None:
    host = replace(GPU_MACHINE, gpus=(H200, SECOND))
    for asked, given_gpus in (("auto", H200), ("1", H200), ("GPU-bbbb", SECOND), ("0", None)):
        choice = chosen(spec_of(f"gpus={asked}"), host, ModelFacts())
        assert choice.gpus == ((given_gpus.uuid,) if given_gpus else ())


def test_the_chosen_image_is_the_one_on_this_machine_by_digest() -> None:
    taken = chosen(spec_of(), CPU_MACHINE, ModelFacts()).image
    assert taken is not None
    assert (taken.ref, taken.id, taken.how) == ("aligntune-trl:cpu", "sha256:trlcpu", "present")
    without_engine = replace(CPU_MACHINE, engine=NO_ENGINE)
    assert chosen(spec_of(), without_engine, ModelFacts()).image is None


def test_a_trainer_argument_that_the_spec_has_a_key_for_is_refused_with_that_key() -> None:
    with pytest.raises(SpecError, match=r"trainer_args\.learning_rate.*training\.learning_rate"):
        refuse_owned(spec_of("trainer_args.learning_rate=1"))


class TestFindings:
    """What was seen of the request's own files is judged with the rest."""

    BROKEN = Verdict("data", "", "fail", "row 3 is not JSON", "Fix it", "DataError")

    def test_a_failure_is_refused_with_the_error_that_it_brings(self) -> None:
        outcome = choose(spec_of(), CPU_MACHINE, ModelFacts("llama"), FACTS, [self.BROKEN])
        assert outcome.choice is None
        assert isinstance(outcome.refusal, DataError)
        assert str(outcome.refusal) == "row 3 is not JSON. Fix it"
        assert outcome.rule == "data"
        assert outcome.verdicts[0].remedy == "Fix it"

    def test_a_warning_is_told_and_forbids_nothing(self) -> None:
        seen = [Verdict("disk", "", "warn", "little is free")]
        choice = choose(spec_of(), CPU_MACHINE, ModelFacts("llama"), FACTS, seen).require()
        assert choice.warnings == ("little is free",)


class TestMemory:
    def test_what_does_not_fit_is_refused_with_changes_that_make_it_fit(self) -> None:
        host = replace(GPU_MACHINE, gpus=(GPUS["l4"],))
        refused = choose(spec_of(), host, MODELS["7b"], FACTS)
        assert refused.rule == "memory"
        assert refused.refusal is not None
        assert refused.refusal.remedy.startswith("Fits with --set ")
        words = refused.refusal.remedy.removeprefix("Fits with --set ").split(" --set ")
        assert "adapter.type=lora" in words
        mended = choose(spec_of(*words), host, MODELS["7b"], FACTS)
        assert mended.choice is not None
        assert not mended.choice.warnings

    def test_the_estimate_is_in_the_choice(self) -> None:
        choice = chosen(spec_of("adapter.rank=16"), GPU_MACHINE, MODELS["7b"])
        assert choice.estimate is not None
        assert 10 * GIB < choice.estimate.expected < 141 * GIB

    def test_what_does_not_train_is_not_asked_to_fit(self) -> None:
        outcome = choose(spec_of(), CPU_MACHINE, MODELS["70b"], FACTS, trains=False)
        assert outcome.choice is not None
        assert outcome.choice.estimate is None
        assert not [one for one in outcome.verdicts if one.rule == "memory"]


# --- what holds for every situation

gpus = st.lists(st.sampled_from([H200, V100, GPUS["leased"], GPUS["used"]]), max_size=2).map(
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
        storage_free=st.sampled_from([None, 10**9, 10**12]),
    ),
    images=images,
)
requests = st.builds(
    lambda *assignments: spec_of(*filter(None, assignments)),
    st.sampled_from(["backend=auto", "backend=trl", "backend=unsloth"]),
    st.sampled_from(["strict=true", "strict=false"]),
    st.sampled_from(["gpus=auto", "gpus=0", "gpus=1", "gpus=2", "gpus=all", "gpus=GPU-0"]),
    st.sampled_from(["engine=auto", "engine=docker", "engine=process"]),
    st.sampled_from(
        [
            "",
            "",
            "training.optimizer=adamw",
            "trainer_args.x=1",
            "image=mine:1",
            "training.precision=fp16",
            "training.precision=bf16",
            "adapter.rank=8",
            "unsloth.load_in_fp8=true",
        ]
    ),
)
models = st.one_of(
    st.builds(ModelFacts, st.sampled_from([None, "llama", "gpt2", "mamba", "bert"]), st.booleans()),
    st.sampled_from(list(MODELS.values())),
)


def outcome(spec: RunSpec, host: Host, model: ModelFacts) -> Choice | AligntuneError:
    found = choose(spec, host, model, FACTS)
    if found.choice is not None:
        return found.choice
    assert found.refusal is not None
    return found.refusal


@given(requests, hosts, models)
def test_every_refusal_names_the_rule_that_failed(
    spec: RunSpec, host: Host, model: ModelFacts
) -> None:
    found = choose(spec, host, model, FACTS)
    if found.choice is None:
        failed = [one for one in found.verdicts if one.rule == found.rule and not one.passed]
        assert failed
        assert failed[0].evidence
    elif found.rule:
        assert spec.backend != found.choice.backend, "a rule decided against what was wanted most"


@given(requests, hosts, models, st.sampled_from([H200, T4, GPUS["l4"], GPUS["used"]]))
def test_another_capable_gpu_never_makes_auto_fail(
    spec: RunSpec, host: Host, model: ModelFacts, gpu: Gpu
) -> None:
    """Capable of a request is a GPU that would carry it out here, were it the only one."""
    spec = spec.model_copy(update={"backend": "auto", "gpus": "auto"})
    one = replace(gpu, index=7, uuid="GPU-more")
    if isinstance(outcome(spec, replace(host, gpus=(one,)), model), Choice):
        more = replace(host, gpus=(*host.gpus, one))
        assert isinstance(outcome(spec, more, model), Choice)


def test_auto_passes_over_a_gpu_that_cannot_be_used() -> None:
    l4 = GPUS["l4"]
    old = replace(V100, index=1, memory=32 * GIB, free=32 * GIB)
    shown = replace(H200, index=1, users=("Xorg (pid 7)",))
    adapter = spec_of("adapter.rank=16", "training.max_length=512")
    assert chosen(spec_of(), replace(GPU_MACHINE, gpus=(old, l4)), ModelFacts("llama")).gpus == (
        l4.uuid,
    )
    assert chosen(adapter, replace(GPU_MACHINE, gpus=(l4, shown)), MODELS["70b"]).gpus == (
        shown.uuid,
    )


def test_strict_does_not_change_errors_in_the_request() -> None:
    request = spec_of("backend=unsloth", "strict=true", "training.optimizer=adamw_torch_fusd")
    with pytest.raises(SpecError, match="did you mean 'adamw_torch_fused'"):
        chosen(request, GPU_MACHINE, ModelFacts("llama"))


@given(requests, hosts, models)
def test_backend_trl_is_trl_or_an_error(spec: RunSpec, host: Host, model: ModelFacts) -> None:
    found = outcome(spec.model_copy(update={"backend": "trl"}), host, model)
    assert isinstance(found, AligntuneError) or found.backend == "trl"


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
def test_the_choice_passes_every_rule_and_runs_on_this_host(
    spec: RunSpec, host: Host, model: ModelFacts
) -> None:
    found = outcome(spec, host, model)
    if isinstance(found, Choice):
        verdicts = [one for one in found.verdicts if one.backend in ("", found.backend)]
        assert all(verdict.passed for verdict in verdicts)
        assert {one.rule for one in verdicts} <= {*MACHINE.checks, *BACKEND.checks}
        assert set(found.gpus) <= {gpu.uuid for gpu in host.gpus}
        assert found.engine == "process" or host.engine.reachable
        assert found.flavour == "cuda" or not found.gpus


# --- what the images publish


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_committed_facts_contain_what_selection_reads(backend: str) -> None:
    path = Path(__file__).parents[3] / "images" / backend / "facts.json"
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
    cuda = facts["flavours"]["cuda"]
    assert {"cuda", "min_driver", "min_compute_capability", "arch_list", "image_size"} <= set(cuda)
    assert {"llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2"} <= set(facts["model_types"])
    for row in ALGORITHMS.values():
        if backend in row.backends:
            assert "learning_rate" in facts["trainer_args"][row.config]
    spec = spec_of()
    assert spec.training.optimizer in facts["optimizers"]
    assert spec.training.schedule in facts["schedules"]
    if backend == "unsloth":
        assert set(facts["fast_model_types"]) <= set(facts["model_types"])
