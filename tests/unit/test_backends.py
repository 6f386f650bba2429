"""What each image's backend makes of a request, as far as that needs no torch."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.device import Device
from aligntune.worker.families import family
from aligntune.worker.trainer.arguments import trainer_arguments
from aligntune.worker.trainer.checkpointing import CheckpointingWatch, is_checkpointing
from aligntune.worker.trainer.token_count import CountedTokens

IMAGES = Path(__file__).parents[2] / "images"


def backend(name: str) -> Any:
    path = IMAGES / name / "aligntune_backend.py"
    found = spec_from_file_location(f"backend_{name}", path)
    assert found is not None
    assert found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def spec_of(*assignments: str, algorithm: str = "sft") -> RunSpec:
    needed = {"algorithm": algorithm, "model": "org/model", "dataset": "org/data"}
    needed |= {"rewards": "length"} if algorithm in ("grpo", "ppo") else {}
    return resolve([Layer("test", needed), *map(from_assignment, assignments)]).spec


def arguments(name: str, spec: RunSpec, cuda: bool = True) -> dict[str, Any]:
    device = Device(cuda=cuda, precision="bf16")
    made = trainer_arguments(spec, family(spec.row), device, Path("/run"), True, 512)
    return dict(backend(name).trainer_arguments(spec, made))


def test_unsloth_decides_about_padding_where_the_user_does_not() -> None:
    assert "padding_free" not in arguments("unsloth", spec_of())
    assert arguments("trl", spec_of())["padding_free"] is False


@pytest.mark.parametrize("said", [True, False])
def test_the_user_s_padding_free_reaches_both_trainers(said: bool) -> None:
    spec = spec_of(f"trainer_args.padding_free={said}".lower())
    for name in ("trl", "unsloth"):
        assert arguments(name, spec)["padding_free"] is said


def test_only_the_supervised_trainer_decides_about_padding() -> None:
    assert arguments("unsloth", spec_of(algorithm="dpo"))["padding_free"] is False


@pytest.mark.parametrize(
    ("assignments", "cuda", "loaded", "trained"),
    [
        ([], True, "unsloth", True),
        (["training.gradient_checkpointing=true"], True, "unsloth", True),
        (["training.gradient_checkpointing=false"], True, False, False),
        (["unsloth.use_gradient_checkpointing=true"], True, True, True),
        (["unsloth.use_gradient_checkpointing=false"], True, False, False),
        (
            [
                "training.gradient_checkpointing=false",
                "unsloth.use_gradient_checkpointing=unsloth",
            ],
            True,
            "unsloth",
            True,
        ),
        ([], False, False, False),
        (["training.gradient_checkpointing=true"], False, False, True),
    ],
)
def test_unsloth_s_model_and_trainer_are_told_the_same_about_checkpointing(
    assignments: list[str], cuda: bool, loaded: bool | str, trained: bool
) -> None:
    """On a CPU the trainer's own argument is all there is."""
    for algorithm in ("sft", "dpo", "grpo", "ppo"):
        spec = spec_of(*assignments, algorithm=algorithm)
        assert backend("unsloth").checkpointing(spec, cuda) == loaded
        assert arguments("unsloth", spec, cuda)["gradient_checkpointing"] is trained


class Model:
    """Modules of which two are layers that can checkpoint."""

    def __init__(self, flag: bool | str) -> None:
        self.layers = [SimpleNamespace(gradient_checkpointing=flag) for _ in range(2)]

    def modules(self) -> list[Any]:
        return [SimpleNamespace(), *self.layers]


@pytest.mark.parametrize(("flag", "active"), [("unsloth", True), (True, True), (False, False)])
def test_checkpointing_is_read_off_the_layers(flag: bool | str, active: bool) -> None:
    assert is_checkpointing(Model(flag)) is active


@pytest.mark.parametrize("planned", [True, False])
def test_checkpointing_that_leaves_the_plan_is_told_once(planned: bool) -> None:
    model = Model(planned)
    watch = CheckpointingWatch(model, planned)
    assert watch.look(1) is None
    for layer in model.layers:
        layer.gradient_checkpointing = not planned
    words = ("on", "off") if planned else ("off", "on")
    told = "gradient checkpointing was planned {} but is {} at step 2".format(*words)
    assert [watch.look(2), watch.look(3)] == [told, None]
    assert watch.active is not planned


class Ids:
    """As much of a tensor as the counting of tokens asks for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def new_ones(self, _: int) -> Ids:
        return Ids(1)

    def expand_as(self, other: Ids) -> Ids:
        return Ids(other.count)


@pytest.mark.parametrize(
    ("inputs", "how", "counted"),
    [
        ({"input_ids": Ids(7)}, "non_padding", 7),
        ({"input_ids": Ids(7), "attention_mask": Ids(5)}, "non_padding", 5),
        ({"input_ids": Ids(7)}, "no", None),
        ({}, "non_padding", None),
    ],
)
def test_rows_in_one_count_every_token(
    inputs: dict[str, Ids], how: str, counted: int | None
) -> None:
    class Trainer:
        args = SimpleNamespace(include_num_input_tokens_seen=how)
        seen: int | None = None

        def _track_num_input_tokens(self, inputs: dict[str, Ids]) -> None:
            self.seen = inputs["attention_mask"].count if "attention_mask" in inputs else None

    class Counting(CountedTokens, Trainer):
        pass

    trainer = Counting()
    trainer._track_num_input_tokens(inputs)
    assert trainer.seen == counted
