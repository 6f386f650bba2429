"""Choosing: a table of situations and what each comes to, then what holds for all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.situations import (
    CPU_MACHINE,
    FACTS,
    GIB,
    GPU_MACHINE,
    GPUS,
    H200,
    MODELS,
    SECOND,
    TRL_CPU,
    TRL_CUDA,
    UNSLOTH,
    chosen,
    image,
    spec_of,
)

from aligntune.algorithms import ALGORITHMS, BACKENDS
from aligntune.errors import DataError, SpecError
from aligntune.spec.trainer_args import refuse_owned
from aligntune_run.check import Verdict
from aligntune_run.host.types import Engine, Host
from aligntune_run.models.facts import ModelFacts
from aligntune_run.selection.rules import BACKEND, MACHINE
from aligntune_run.selection.select import choose

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
NO_ENGINE = Engine(False, "there is no /var/run/docker.sock")


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
