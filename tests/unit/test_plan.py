"""Plans: plain data, with what a run will fetch and may use."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune_run.host.resources import memory_limit
from aligntune_run.plan import Choice, Image, Plan, Verdict, hub_ids

GIB = 2**30


def spec_of(*assignments: str, **values: Any) -> RunSpec:
    needed = {"algorithm": "sft", "model": "org/model", "dataset": "org/data", **values}
    return resolve([Layer("test", needed), *map(from_assignment, assignments)]).spec


def test_what_is_fetched_is_what_comes_from_a_hub_each_once() -> None:
    assert hub_ids(spec_of()) == ("model org/model", "dataset org/data")
    assert hub_ids(spec_of(model="/m", dataset="/d")) == ()
    everything = spec_of("adapter.path=org/adapter", "dataset.eval_name=org/other")
    assert set(hub_ids(everything)) == {
        "model org/model",
        "adapter org/adapter",
        "dataset org/data",
        "dataset org/other",
    }
    assert hub_ids(spec_of("dataset.eval_name=org/data")) == hub_ids(spec_of())


@pytest.mark.parametrize(
    ("wanted", "total", "bytes_"),
    [
        ("16g", 0, 16 * GIB),
        ("16gb", 0, 16 * GIB),
        ("1.5g", 0, 3 * GIB // 2),
        ("512m", 0, GIB // 2),
        ("100k", 0, 102400),
        ("1t", 0, 1024 * GIB),
        ("1024", 0, 1024),
        ("1024b", 0, 1024),
        (None, 16 * GIB, 15 * GIB),
        (None, 100 * GIB, 95 * GIB),
        (None, GIB, GIB // 2),
    ],
)
def test_a_run_may_use_what_was_asked_for_or_nearly_everything(
    wanted: str | None, total: int, bytes_: int
) -> None:
    assert memory_limit(wanted, total) == bytes_


@given(st.integers(GIB, 2**50))
def test_the_host_is_always_left_something(total: int) -> None:
    assert 0 < memory_limit(None, total) < total


@given(st.from_regex(r"[1-9][0-9]{0,3}(\.[0-9]{1,2})?[kmgt]?b?", fullmatch=True))
def test_every_limit_that_a_spec_takes_is_a_number_of_bytes(wanted: str) -> None:
    assert memory_limit(spec_of(f"memory='{wanted}'").memory, GIB) > 0


def test_a_plan_is_json_and_carries_every_rule_s_verdict() -> None:
    choice = Choice(
        backend="trl",
        flavour="cpu",
        engine="docker",
        image=Image("aligntune-trl:cpu", "sha256:1", "present", "lock"),
        lock_hash="lock",
        gpus=(),
        reason="TRL on the CPU",
        warnings=("mind this",),
        verdicts=(Verdict("gpu", "unsloth", "fail", "it needs an NVIDIA GPU"),),
    )
    plan = Plan("id", "/runs/id", spec_of(), {"model.name": "--model"}, choice, GIB, ("model m",))
    values = json.loads(json.dumps(plan.to_dict()))
    assert values["choice"]["image"]["id"] == "sha256:1"
    assert values["choice"]["verdicts"][0]["evidence"] == "it needs an NVIDIA GPU"
    assert values["origins"] == {"model.name": "--model"}
    assert values["memory"] == GIB
    assert json.dumps(replace(plan).to_dict()) == json.dumps(plan.to_dict())
