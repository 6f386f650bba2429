"""Plans as the launcher makes them."""

from __future__ import annotations

from aligntune.spec.run_spec import RunSpec
from aligntune_run.plan import Choice, Image, Plan, hub_ids


def make_plan(model: str = "/m", dataset: str = "/d.jsonl", gpus: tuple[str, ...] = ()) -> Plan:
    spec = RunSpec.model_validate(
        {"algorithm": "sft", "model": {"name": model}, "dataset": {"name": dataset}}
    )
    image = Image("aligntune-trl:cpu-abc", "sha256:abc", "present", "f00")
    choice = Choice("trl", "cpu", "docker", image, "f00", gpus, "TRL", (), ())
    return Plan("20261123-sft-m-1a2b3c", "/runs/r", spec, {}, choice, 2**33, hub_ids(spec))
