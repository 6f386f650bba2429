"""Every architecture that transformers can make tiny: trained, saved, loaded plainly, packed.

``make test`` tries a few that differ most, ``make test-matrix`` all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.containers.runs import Bench, in_image
from tests.containers.test_saving import scripts

FEW = ("llama", "gemma2", "granitemoe", "roberta", "bloom")
AT_LEAST = 40
LEAKS = frozenset(("bloom", "gpt_oss", "mamba", "mpt", "opt", "roberta"))
"""Packed rows see each other in these, as published, so packing is refused."""


def trained(image: str, bench: Bench, name: str, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    script = scripts(bench, name) / "architectures.py"
    printed = in_image(image, script, bench, script.parent, "--only", *kinds)
    return [json.loads(line) for line in printed.splitlines() if line.startswith('{"kind"')]


def require_right(found: list[dict[str, Any]]) -> None:
    wrong = [f"{one['kind']}, {one['run']}: {one['fault']}" for one in found if one["fault"]]
    assert not wrong, "\n".join(wrong)
    refused = {one["kind"] for one in found if one["run"] == "packed" and "refused" in one}
    kinds = {one["kind"] for one in found}
    assert refused >= LEAKS & kinds
    assert "llama" not in refused


def test_a_few_architectures_load_plainly_with_the_loss_that_was_measured(
    image: Callable[[str, str], str], bench: Bench
) -> None:
    found = trained(image("trl", "cpu"), bench, "few", FEW)
    assert {one["kind"] for one in found} == set(FEW)
    require_right(found)
    notes = {one["kind"] for one in found if "from the model's logits" in one.get("note", "")}
    assert notes == {"roberta"}, "its head has a layer that the trainer's does not"


@pytest.mark.matrix
def test_every_architecture_loads_plainly_with_the_loss_that_was_measured(
    image: Callable[[str, str], str], bench: Bench
) -> None:
    found = trained(image("trl", "cpu"), bench, "every", ())
    assert len({one["kind"] for one in found}) >= AT_LEAST
    require_right(found)
