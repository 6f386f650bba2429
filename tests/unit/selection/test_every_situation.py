"""What holds for every situation: requests, hosts and models at random."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.situations import (
    CPU_MACHINE,
    FACTS,
    GIB,
    GPU_MACHINE,
    GPUS,
    H200,
    MODELS,
    T4,
    V100,
    chosen,
    image,
    spec_of,
)

from aligntune.algorithms import BACKENDS
from aligntune.errors import AligntuneError, SpecError
from aligntune.spec.layers import Layer
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune_run.host.types import Engine, Gpu, Host
from aligntune_run.models.facts import ModelFacts
from aligntune_run.plan import Choice
from aligntune_run.selection.rules import BACKEND, MACHINE
from aligntune_run.selection.select import choose

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
