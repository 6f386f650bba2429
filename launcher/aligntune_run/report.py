"""What the user is told before and after a run, in words or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

import yaml

from aligntune.events import headline
from aligntune.rundir import Record
from aligntune_run.images import Listed
from aligntune_run.run import Prepared


def choice(prepared: Prepared, stream: TextIO) -> None:
    """One line for the choice, then every warning where it cannot be missed."""
    plan = prepared.plan
    engine: str = plan.choice.engine
    if engine == "process" and plan.spec.engine == "process":
        engine += ", as asked"
    elif engine == "process":
        engine += f", as no container engine is reachable: {prepared.host.engine.reason}"
    what = f"{plan.task.kind} {plan.task.of}" if plan.task else plan.spec.algorithm
    print(f"{what} with {plan.choice.reason}, engine {engine}", file=stream)
    for warning in plan.choice.warnings:
        rule = "!" * 78
        print(f"{rule}\nWARNING: {warning}\n{rule}", file=sys.stderr)
    print(f"run directory: {plan.run_dir}", file=stream, flush=True)


def values(prepared: Prepared) -> dict[str, Any]:
    """The plan as data, with the exact arguments that would run."""
    return {
        "spec": prepared.plan.spec.model_dump(mode="json"),
        "plan": prepared.plan.to_dict(),
        "commands": [
            {"phase": command.phase, "engine": prepared.plan.choice.engine, **command.arguments}
            for command in prepared.engine.commands(prepared.plan)
        ],
    }


def plan(prepared: Prepared, as_json: bool) -> None:
    """The plan, with the exact arguments that would run."""
    told = values(prepared)
    if as_json:
        json_line(told)
        return
    choice(prepared, sys.stdout)
    for verdict in prepared.plan.choice.verdicts:
        print(f"  {verdict.level}  {verdict.backend:8} {verdict.rule}: {verdict.evidence}")
    print(yaml.safe_dump(json.loads(json.dumps(told)), sort_keys=False, allow_unicode=True), end="")


def json_line(values: Any) -> None:
    """JSON for programs, on stdout."""
    print(json.dumps(values, indent=2, ensure_ascii=False, default=str))


def summary(record: Record, stream: TextIO) -> None:
    """What came out, where it is and how to load it."""
    result = record["result"]
    model = f"{record['run_dir']}/model"
    losses = f"loss {result['final_loss']:.4f}"
    found = {name[len("eval_") :]: result[name] for name in result if name.startswith("eval_")}
    if told := headline(found):
        losses += f", evaluation {told}"
    speed = f"{result['tokens']:,} tokens at {result['tokens_per_second']:,.0f} token/s"
    memory = result["memory"]["peak_gpu"] or result["memory"]["peak"]
    print(
        f"finished: {result['steps']} steps, {losses}; {speed}, peak {memory / 2**30:.2f} GiB",
        file=stream,
    )
    print(f"model: {model}", file=stream)
    print(f"load it with:\n{_loading(record, model)}", file=stream)


def _loading(record: Record, model: str) -> str:
    spec = record["spec"]
    if spec["algorithm"] == "reward":
        return (
            "    from transformers import AutoModelForSequenceClassification\n"
            f"    model = AutoModelForSequenceClassification.from_pretrained({model!r})"
        )
    if spec["adapter"]["type"] == "none":
        return (
            "    from transformers import AutoModelForCausalLM\n"
            f"    model = AutoModelForCausalLM.from_pretrained({model!r})"
        )
    return (
        "    from peft import AutoPeftModelForCausalLM\n"
        f"    model = AutoPeftModelForCausalLM.from_pretrained({model!r})"
    )


def evaluation(record: Record, stream: TextIO) -> None:
    """The figures of an evaluation, and a few of the rows that they are of."""
    result = record["result"]
    print(f"evaluated {result['rows']} rows of {result['source']}", file=stream)
    for name, value in result["metrics"].items():
        if value is not None:
            shown = f"{value:.6g}" if isinstance(value, float) else value
            print(f"  {name:20} {shown}", file=stream)
    for sample in result["samples"]:
        print("sample:", file=stream)
        for name, value in sample.items():
            print(f"  {name}: {value}", file=stream)
    print(f"record: {record['run_dir']}/run.json", file=stream)


def predictions(record: Record, stream: TextIO) -> None:
    """What a model made of each prompt; the prompts too where there are several."""
    made = record["result"]["predictions"]
    for one in made:
        if len(made) > 1:
            print(f"> {one['prompt']}", file=stream)
        print(one["text"] if "text" in one else f"score {one['score']:.6g}", file=stream)


def pushed(record: Record, stream: TextIO) -> None:
    """Where a model is now."""
    result = record["result"]
    print(f"pushed: {result['url']} at {result['commit'][:12]}", file=stream)


HEADLINE_VERSIONS = ("unsloth", "trl", "transformers", "torch")


def images(found: Sequence[Listed], as_json: bool) -> None:
    """The images on this machine, one line each, or everything about them as JSON."""
    if as_json:
        json_line([asdict(image) for image in found])
        return
    for image in found:
        size = f"{image.size / 1e9:.2f} GB" if image.size else "?"
        versions = " ".join(
            f"{name} {image.versions[name]}" for name in HEADLINE_VERSIONS if name in image.versions
        )
        print(f"{image.ref:38} {size:>8}  {(image.id or '-')[7:19]:12}  {image.state}; {versions}")
    if any(image.stale for image in found):
        print("`aligntune-run images prune` removes the stale ones")
