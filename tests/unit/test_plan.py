"""Plans: plain data, with what a run will fetch and may use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import RunRecord
from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Evaluate, Predict, Push, Task
from aligntune_run.check import Verdict
from aligntune_run.host.resources import memory_limit
from aligntune_run.memory.estimate import Estimate
from aligntune_run.plan import Choice, Image, Plan, hub_ids

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
        verdicts=(
            Verdict("gpu", "unsloth", "fail", "it needs an NVIDIA GPU", kind="HardwareError"),
        ),
    )
    plan = Plan("id", "/runs/id", spec_of(), {"model.name": "--model"}, choice, GIB, ("model m",))
    values = json.loads(json.dumps(plan.to_dict()))
    assert values["choice"]["image"]["id"] == "sha256:1"
    assert values["choice"]["verdicts"][0]["evidence"] == "it needs an NVIDIA GPU"
    assert values["origins"] == {"model.name": "--model"}
    assert values["memory"] == GIB
    assert json.dumps(replace(plan).to_dict()) == json.dumps(plan.to_dict())


WORDS = st.text(max_size=8)
SIZES = st.integers(0, 2**40)
VERDICTS = st.builds(
    Verdict, WORDS, WORDS, st.sampled_from(["pass", "warn", "fail"]), WORDS, remedy=WORDS
)
CHOICES = st.builds(
    Choice,
    backend=st.sampled_from(["trl", "unsloth"]),
    flavour=WORDS,
    engine=st.sampled_from(["docker", "process"]),
    image=st.none()
    | st.builds(
        Image, WORDS, st.none() | WORDS, st.sampled_from(["present", "pull", "build"]), WORDS
    ),
    lock_hash=WORDS,
    gpus=st.lists(WORDS, max_size=2).map(tuple),
    reason=WORDS,
    warnings=st.lists(WORDS, max_size=2).map(tuple),
    verdicts=st.lists(VERDICTS, max_size=2).map(tuple),
    rule=WORDS,
    estimate=st.none()
    | st.builds(Estimate, SIZES, SIZES, SIZES, st.lists(st.tuples(WORDS, SIZES)).map(tuple)),
)
TASKS: st.SearchStrategy[Task] = st.one_of(
    st.builds(Evaluate, of=WORDS, batch_size=st.none() | st.integers(1, 9)),
    st.builds(Predict, of=WORDS, prompts=st.lists(WORDS, min_size=1, max_size=2).map(tuple)),
    st.builds(Push, of=WORDS, repository=st.just("a/b")),
)
SPECS = st.sampled_from(
    [
        spec_of(),
        spec_of("training.max_steps=3", "adapter.rank=4", algorithm="dpo"),
        spec_of("rewards=[length]", "trainer_args.adam_beta2=0.98", algorithm="grpo"),
        spec_of(dataset="/d.jsonl", output="/runs/o", gpus="0"),
    ]
)


@given(
    SPECS,
    st.dictionaries(WORDS, WORDS, max_size=2),
    CHOICES,
    st.integers(1, 9),
    st.none() | TASKS,
    st.lists(WORDS, max_size=2).map(tuple),
)
def test_the_record_of_a_run_gives_its_plan_back(
    spec: RunSpec,
    origins: dict[str, str],
    choice: Choice,
    attempt: int,
    task: Task | None,
    inputs: tuple[str, ...],
) -> None:
    plan = Plan("id", "/runs/id", spec, origins, choice, GIB, hub_ids(spec), attempt, task, inputs)
    written = {
        "spec": spec.model_dump(mode="json"),
        "plan": plan.to_dict(),
        "task": task and task.model_dump(mode="json"),
    }
    values = json.loads(json.dumps(written))
    assert Plan.from_record(RunRecord.from_dict(values, Path("run.json"))) == plan


def test_an_unversioned_record_has_its_plan() -> None:
    record = RunDir(Path(__file__).parent / "record" / "unversioned").record()
    plan = Plan.from_record(record)
    expected = json.loads(json.dumps(record.to_dict()["plan"])) | {"inputs": []}
    expected["choice"]["image"]["code_hash"] = None  # that version mounted no code
    for verdict in expected["choice"]["verdicts"]:
        verdict["kind"] = ""
    assert json.loads(json.dumps(plan.to_dict())) == expected


def test_a_record_without_a_plan_says_so() -> None:
    with pytest.raises(OutputError, match="holds no plan: run_id: Field required"):
        Plan.from_record(RunRecord(run_dir="/runs/by-hand"))
