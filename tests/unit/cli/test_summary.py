"""What a run prints at its end."""

from __future__ import annotations

import io
from typing import Any

import pytest

from aligntune.record.schema import RunRecord
from aligntune_run.cli.output import summary


def printed(adapter: str, text_class: str | None) -> str:
    """The summary of a finished run."""
    result: dict[str, Any] = {
        "steps": 2,
        "final_loss": 1.0,
        "tokens": 10,
        "tokens_per_second": 5.0,
        "memory": {"peak": 2**30, "peak_gpu": None},
        "text_class": text_class,
    }
    spec = {"algorithm": "sft", "adapter": {"type": adapter}, "training": {}}
    stream = io.StringIO()
    summary(RunRecord(run_dir="runs/a", spec=spec, result=result), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("adapter", "text_class", "loader"),
    [
        ("none", None, "AutoModelForCausalLM"),
        ("lora", None, "AutoPeftModelForCausalLM"),
        ("none", "Gemma3ForCausalLM", "AutoModelForCausalLM"),
    ],
)
def test_a_finished_run_says_how_to_load_it(
    adapter: str, text_class: str | None, loader: str
) -> None:
    assert f"{loader}.from_pretrained('runs/a/model')" in printed(adapter, text_class)


def test_an_adapter_of_a_text_part_does_not_fit_the_whole_checkpoint() -> None:
    text = printed("lora", "Gemma3ForCausalLM")
    assert "fits Gemma3ForCausalLM, the text part" in text
    assert "aligntune-run predict runs/a" in text
    assert "AutoPeftModelForCausalLM" not in text
