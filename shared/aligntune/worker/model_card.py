"""The model card: model, data, method, versions and figures."""

from __future__ import annotations

from typing import Any

import yaml

from aligntune.algorithms import ALGORITHMS
from aligntune.record.schema import ParentRecord
from aligntune.spec.run_spec import RunSpec, is_local


def model_card(
    spec: RunSpec, result: dict[str, Any], versions: dict[str, str], parent: ParentRecord | None
) -> str:
    """A README.md with the hub's metadata header (https://huggingface.co/docs/hub/model-cards)."""
    row = ALGORITHMS[spec.algorithm]
    adapter = spec.adapter.type != "none"
    header: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "tags": [row.name, "trl", *(["unsloth"] if "unsloth" in versions else [])],
    }
    base = parent.base if parent else spec.model.name
    if not is_local(base):
        header["base_model"] = base
    if not is_local(spec.dataset.name):
        header["datasets"] = [spec.dataset.name]
    figures = {
        "steps": result["steps"],
        "tokens": result["tokens"],
        "training loss": result["train_loss"],
        **{
            f"evaluation {name.removeprefix('eval_').replace('_', ' ')}": value
            for name, value in result.items()
            if name.startswith("eval_")
        },
    }
    lines = [
        f"| {name} | {f'{value:.6g}' if isinstance(value, float) else value} |"
        for name, value in figures.items()
        if value is not None
    ]
    stack = ", ".join(f"{name} {version}" for name, version in versions.items())
    what = "A LoRA adapter for" if adapter else "Fine-tuned from"
    after = f", after {parent.algorithm} in run `{parent.id or parent.run_dir}`" if parent else ""
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n"
        f"# {base.rstrip('/').rpartition('/')[2]}, {row.name}\n\n"
        f"{what} `{base}` by [{row.title.lower()}]({row.paper}) on "
        f"`{spec.dataset.name}`{after}, with aligntune-run.\n\n"
        "| | |\n| --- | --- |\n" + "\n".join(lines) + f"\n\nMade with {stack}.\n"
    )
