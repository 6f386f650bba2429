"""Optional packages: what needs one, and that host and worker know the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligntune import packages
from aligntune.errors import SpecError
from aligntune.packages import MODULES, OPTIMIZERS, missing, needs, present, require_packages
from aligntune.spec.layers import Layer, from_assignment
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec

IMAGES = Path(__file__).parents[2] / "images"
NEEDED = {
    "trl.use_liger_kernel=true": "liger-kernel",
    "trainer_args.use_liger_kernel=true": "liger-kernel",
    "trl.use_kernels=true": "kernels",
    "training.optimizer=lomo": "lomo-optim",
    "training.optimizer=stable_adamw": "torch-optimi",
    "model.attention=flash_attention_2": "flash-attn",
}


def spec_of(*assignments: str) -> RunSpec:
    needed = {"algorithm": "sft", "model": "org/model", "dataset": "org/data"}
    return resolve([Layer("test", needed), *map(from_assignment, assignments)]).spec


@pytest.mark.parametrize("assignment", NEEDED)
def test_a_worker_refuses_what_needs_a_package_that_is_not_here(
    assignment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "present", list)
    says = f"{assignment} needs the package {NEEDED[assignment]}, which is not installed. "
    with pytest.raises(SpecError) as refused:
        require_packages(spec_of(assignment), "trl")
    assert str(refused.value).startswith(says)
    monkeypatch.setattr(packages, "present", lambda: list(MODULES))
    require_packages(spec_of(assignment), "trl")


def test_a_request_that_needs_nothing_passes_without_any_package() -> None:
    assert list(needs(spec_of(), "trl")) == []
    assert missing(spec_of("trl.use_kernels=true"), "unsloth", []) is None, "not its section"
    assert missing(spec_of("trl.use_liger_kernel=false"), "trl", []) is None


def test_every_package_that_is_needed_can_be_looked_for() -> None:
    named = {*OPTIMIZERS.values(), *packages.ATTENTION.values()}
    named |= {package for package, _ in packages.ARGUMENTS.values()}
    assert named <= set(MODULES)


def test_what_is_there_is_found_by_its_module() -> None:
    def find(module: str) -> Any:
        return module if module in ("torchao", "liger_kernel") else None

    assert present(find) == ["liger-kernel", "torchao"]


@pytest.mark.parametrize("backend", ["trl", "unsloth"])
def test_every_optimizer_that_transformers_names_is_decided_about(backend: str) -> None:
    """One that a newer transformers adds shows here: does it need a package?"""
    own = {
        *("adafactor", "adagrad", "adamw_torch", "adamw_torch_fused", "rmsprop", "sgd"),
        *("adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_32bit", "lion_8bit"),
        *("paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"),
        *("paged_lion_32bit", "paged_lion_8bit"),
        *("rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit"),
    }
    facts = json.loads((IMAGES / backend / "facts.json").read_text(encoding="utf-8"))
    assert set(facts["optimizers"]) == own | set(OPTIMIZERS)
    assert set(facts["packages"]) <= set(MODULES)
